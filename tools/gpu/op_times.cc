#include "tools/gpu/op_times.h"

#include <cstdio>

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;

Json RowOf(const BenchCase& c, double us, const Limits& limits) {
  const double gbs = static_cast<double>(c.work.bytes) / us * 1e-3;
  const double tflops = static_cast<double>(c.work.flops) / us * 1e-6;
  Json row = {{"us", us}, {"tflops", tflops}, {"gb_per_s", gbs}};
  if (limits.copy_gbs <= 0) return row;  // no limits were measured
  const Floor floor = FloorOf(c.work, limits);
  row["copy_percent"] = 100 * gbs / limits.copy_gbs;
  const double rate = limits.tflops(c.work.math);
  if (rate > 0) row["gemm_percent"] = 100 * tflops / rate;
  row["bound"] = floor.by_copy ? "copy" : "gemm";
  row["floor_us"] = floor.us;
  row["floor_percent"] = 100 * floor.us / us;
  return row;
}

void Print(const Json& row) {
  const auto text = [&](const char* key) { return row[key].get<std::string>(); };
  if (row.contains("left_out")) {
    std::printf("%-12s %-15s %-44s left out: %s\n", text("table").c_str(), text("op").c_str(),
                text("shape").c_str(), text("left_out").c_str());
    return;
  }
  std::printf("%-12s %-15s %-44s %10.1f us %8.1f TFLOPS %7.0f GB/s %5.1f %% of its floor (%s)\n",
              text("table").c_str(), text("op").c_str(), text("shape").c_str(),
              row["us"].get<double>(), row["tflops"].get<double>(), row["gb_per_s"].get<double>(),
              row.value("floor_percent", 0.0), row.value("bound", "not known").c_str());
}

class OpTimes {
 public:
  OpTimes(const std::vector<const cuda::KernelTable*>& tables, const cuda::CublasLtTable& cublaslt,
          Card& card, const OpTimesOptions& options)
      : tables_(tables), card_(card), options_(options), dense_(cublaslt, &card) {}

  void Take(const BenchCase& c) {
    std::optional<double> cublaslt;
    const bool late = Clock::Real().Now() > options_.deadline;
    if (c.dense && !late) cublaslt = dense_.Of(*c.dense);
    for (size_t i = 0; i < tables_.size(); ++i) {
      if (i > 0 && c.same(*tables_[i], *tables_[i - 1])) continue;  // has been timed
      Json row = {{"table", tables_[i]->name}, {"op", c.op}, {"shape", c.shape}};
      if (late) {
        row["left_out"] = "no time left";
      } else if (i == 0 && c.work.flops > options_.simple_flops_max) {
        row["left_out"] = "takes too long";
      } else {
        const cuda::KernelStream stream = card_.kernel_stream();
        const double us = card_.Time([&] { c.run(*tables_[i], stream); }, c.op + " " + c.shape);
        row.update(RowOf(c, us, options_.limits));
        if (cublaslt) row["cublaslt_us"] = *cublaslt;
      }
      if (!c.figure.empty()) row["figure"] = c.figure;
      Print(row);
      rows_.push_back(std::move(row));
    }
    if (options_.progress) options_.progress(rows_);
  }
  Json rows() && { return std::move(rows_); }

 private:
  const std::vector<const cuda::KernelTable*>& tables_;
  Card& card_;
  const OpTimesOptions options_;
  DenseTimes dense_;
  Json rows_ = Json::array();
};

}  // namespace

Json TimeOps(const std::vector<const cuda::KernelTable*>& tables,
             const cuda::CublasLtTable& cublaslt, Card& card, const OpTimesOptions& options) {
  OpTimes times(tables, cublaslt, card, options);
  ForBenchCases(options.shapes, card, [&](const BenchCase& c) { times.Take(c); });
  return std::move(times).rows();
}

}  // namespace choir::gpu
