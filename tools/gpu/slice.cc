#include "tools/gpu/slice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "kernels/cuda/table_kernels.h"
#include "tools/gpu/measured_kernels.h"
#include "tools/gpu/must.h"
#include "worker/device/measuring_device.h"
#include "worker/device/table_device.h"

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;

double Milliseconds(Duration d) { return std::chrono::duration<double, std::milli>(d).count(); }

class Slice {
 public:
  Slice(const cuda::DeviceTable& device, const cuda::KernelTable& table, const Limits& limits,
        const SliceOptions& options)
      : device_table_(device),
        options_(options),
        table_(table),
        inner_(MakeTableKernels(table_)),
        kernels_(inner_.get(), &device, limits),
        config_(Must(SliceConfig(options.shape), "the slice's config")) {
    kernels_.set_vocab(config_.vocab);
  }

  Json Run() {
    Make();
    out_["batches"] = options_.batches;
    for (const int64_t batch : options_.batches) {
      Take("decode", batch, [this, batch](SliceRunner& r) { return r.Decode(batch); });
    }
    double last_ms = 0;
    int64_t last = 0;
    for (const int64_t rows : options_.prefills) {
      // Attention is quadratic at the worst.
      const double grows = last == 0 ? 0 : static_cast<double>(rows) / static_cast<double>(last);
      if (Late(last_ms * grows * grows * 3)) {
        out_["lines"].push_back(fmt::format("prefill of {} rows: left out, no time left", rows));
        break;
      }
      last_ms = Take("prefill", rows, [rows](SliceRunner& r) { return r.Prefill(rows); });
      last = rows;
    }
    Tell();
    return std::move(out_);
  }

 private:
  void Tell() const {
    if (options_.progress) options_.progress(out_);
  }
  bool Late(double ms) const {
    return Clock::Real().Now() + std::chrono::microseconds(static_cast<int64_t>(ms * 1e3)) >
           options_.deadline;
  }

  // Runners over the same weights; first counted without memory. Steps of decode run as graphs, as
  // an engine has it; `plain_` takes the others, and those whose ops are looked at one by one.
  StatusOr<std::vector<Piece>> MakeOn(Device* device) {
    std::vector<Piece> pieces;
    CHOIR_ASSIGN_OR_RETURN(const ModelWeights weights, SliceWeights(config_, device, &pieces));
    const auto make = [&](int64_t layers, const SliceLimits& limits,
                          std::unique_ptr<SliceRunner>* runner) -> Status {
      runner->reset();
      CHOIR_ASSIGN_OR_RETURN(
          *runner, SliceRunner::Make(SliceOf(config_, weights, layers, device), &kernels_, limits));
      return {};
    };
    SliceLimits decode = options_.limits;
    decode.rows_max = decode.sequences_max;
    decode.graphs = true;
    CHOIR_RETURN_IF_ERROR(make(options_.shape.layers, options_.limits, &plain_));
    pieces.insert(pieces.end(), plain_->pieces().begin(), plain_->pieces().end());
    CHOIR_RETURN_IF_ERROR(make(options_.shape.layers, decode, &all_));
    CHOIR_RETURN_IF_ERROR(make(2, decode, &two_));
    if (options_.early_starts) {
      CHOIR_RETURN_IF_ERROR(make(options_.shape.layers, decode, &apart_));
    }
    return pieces;
  }

  void Make() {
    const MonoTime start = Clock::Real().Now();
    MeasuringDevice measuring;
    Must(MakeOn(&measuring).status(), "the slice's size");
    for (auto* runner : {&plain_, &all_, &two_, &apart_}) runner->reset();
    device_ = Must(MakeTableDevice(device_table_, 0), "the card");
    Must(device_->Use(), "the card");
    Must(device_->Reserve(measuring.bytes()), "memory for the slice");
    const std::vector<Piece> pieces = Must(MakeOn(device_.get()), "the slice");
    Card card(device_table_, options_.card);
    for (const Piece& piece : pieces) card.Fill(piece.at, piece.contents);
    for (const SliceRunner* runner : {all_.get(), two_.get(), apart_.get()}) {
      if (runner == nullptr) continue;  // the same keys for all others
      for (size_t layer = 0; layer < runner->pieces().size(); ++layer) {
        const TensorView& to = runner->pieces()[layer].at;
        Must(device_table_.copy(to.raw(), plain_->pieces()[layer].at.raw(), to.num_bytes(),
                                card.stream()),
             "copy of keys");
      }
    }
    card.Wait();
    out_["table"] = table_.name;
    out_["memory_gib"] = static_cast<double>(measuring.bytes()) / (1 << 30);
    out_["model"] = fmt::format(
        "{} layers of DeepSeek-V3's shape (1 dense), {} experts a layer with 8 a token: the load "
        "of one rank of {} when all have as much; random FP8 weights, {} keys a sequence, {:.1f} "
        "GiB on the card, made in {:.1f} s; kernels {}",
        options_.shape.layers, options_.shape.experts, options_.ranks, options_.limits.context,
        out_["memory_gib"].get<double>(), Milliseconds(Clock::Real().Now() - start) * 1e-3,
        table_.name);
    std::printf("%s\n", out_["model"].get<std::string>().c_str());
  }

  // Milliseconds of a step by the host's clock: the median. A graph is there after the second.
  template <class Step>
  double TimeOf(SliceRunner& runner, const Step& step) {
    std::vector<double> ms;
    const MonoTime begin = Clock::Real().Now();
    kernels_.Begin(false);
    for (int warm = 0; warm < (&runner == plain_.get() ? 1 : 3); ++warm) {
      Must(step(runner), "a step");
    }
    while (
        static_cast<int>(ms.size()) < options_.steps &&
        (ms.empty() || Milliseconds(Clock::Real().Now() - begin) < 1e3 * options_.kind_seconds)) {
      kernels_.Begin(false);
      const MonoTime start = Clock::Real().Now();
      Must(step(runner), "a step");
      ms.push_back(Milliseconds(Clock::Real().Now() - start));
    }
    std::nth_element(ms.begin(), ms.begin() + static_cast<int64_t>(ms.size() / 2), ms.end());
    return ms[ms.size() / 2];
  }

  // A step whose ops are timed one by one; adds floors and times to the row.
  template <class Step>
  double LookAtOps(const Step& step, Json* row) {
    kernels_.Begin(true);
    Must(step(*plain_), "a step");
    double floor_ms = 0, gpu_ms = 0, outside_ms = 0;
    for (const auto& [op, sum] : kernels_.ByOp()) {
      floor_ms += sum.floor_us * 1e-3;
      gpu_ms += sum.us * 1e-3;
      if (op == "linear (head)" || op == "sample") outside_ms += sum.us * 1e-3;
      (*row)["ops_ms"][op] = sum.us * 1e-3;
      (*row)["ops_floor_ms"][op] = sum.floor_us * 1e-3;
    }
    (*row)["floor_ms"] = floor_ms;
    (*row)["gpu_ms"] = gpu_ms;
    return outside_ms;
  }

  template <class Step>
  double Take(const std::string& kind, int64_t rows, const Step& step) {
    if (Late(0)) {
      out_["lines"].push_back(fmt::format("{} of {} rows: left out, no time left", kind, rows));
      return 0;
    }
    const bool decode = kind == "decode";
    Json row = {{"kind", kind}, {"rows", rows}};
    const double plain_ms = TimeOf(*plain_, step);
    double ms = plain_ms;
    if (decode) {
      CheckLogits(*plain_, rows, "without a graph");
      const uint64_t before = all_->graphs().replays;
      ms = TimeOf(*all_, step);
      CheckLogits(*all_, rows, "as a graph");
      row["graph_replays"] = all_->graphs().replays - before;
      if (apart_ != nullptr) row["apart_ms"] = TakeApart(rows, ms, step);
    }
    const double outside_ms = LookAtOps(step, &row);
    const double floor_ms = row["floor_ms"];
    row.update({{"ms", ms},
                {"plain_ms", plain_ms},
                {"tokens_per_s", static_cast<double>(rows) / ms * 1e3}});
    if (floor_ms > 0) row["step_ratio"] = ms / floor_ms;  // else no limits were measured
    std::printf("%s %lld rows: %.2f ms (without graphs %.2f), floors %.2f ms\n", kind.c_str(),
                static_cast<long long>(rows), ms, plain_ms, floor_ms);
    out_["steps"].push_back(std::move(row));
    Tell();
    if (decode) AddProjection(rows, ms, TimeOf(*two_, step), outside_ms);
    Tell();
    return ms;
  }

  // The same as a graph whose kernels start one after the other.
  template <class Step>
  double TakeApart(int64_t rows, double early_ms, const Step& step) {
    device_table_.allow_early_starts(false);
    const double ms = TimeOf(*apart_, step);
    CheckLogits(*apart_, rows, "without early starts");
    device_table_.allow_early_starts(true);
    out_["lines"].push_back(fmt::format("decode of {} rows: {:.2f} ms, without early starts {:.2f}",
                                        rows, early_ms, ms));
    return ms;
  }

  // The first sequence is the same in every batch, so its bits have to be; and graphs change none.
  void CheckLogits(SliceRunner& runner, int64_t batch, const char* how) {
    const std::vector<float> logits = Must(runner.FirstLogits(), "logits");
    if (!std::all_of(logits.begin(), logits.end(), [](float v) { return std::isfinite(v); })) {
      out_["failures"].push_back(fmt::format("batch {}: logits are not numbers", batch));
    }
    if (first_logits_.empty()) first_logits_ = logits;
    if (logits == first_logits_) return;
    out_["failures"].push_back(
        fmt::format("batch {}, {}: a sequence's logits have other bits than in batch {}", batch,
                    how, options_.batches.front()));
  }

  void AddProjection(int64_t batch, double all_ms, double two_ms, double outside_ms) {
    const SliceTimes times{options_.shape.layers, all_ms, two_ms, outside_ms};
    const ProjectedStep step = Project(times, options_.model_layers, options_.model_dense_layers);
    const double per_s = static_cast<double>(batch) / step.step_ms * 1e3;
    // Of a row's 8 experts all but 1 / ranks are elsewhere: bf16 there, f32 back.
    const double sent = static_cast<double>((options_.model_layers - options_.model_dense_layers) *
                                            batch * config_.moe->top_k * config_.hidden * 6) *
                        static_cast<double>(options_.ranks - 1) /
                        static_cast<double>(options_.ranks);
    out_["projection"].push_back(
        {{"rows", batch},
         {"two_layers_ms", two_ms},
         {"outside_ms", outside_ms},
         {"expert_layer_ms", step.expert_layer_ms},
         {"dense_layer_ms", step.dense_layer_ms},
         {"step_ms", step.step_ms},
         {"tokens_per_s_per_gpu", per_s},
         {"text",
          fmt::format(
              "Projection, batch {} a GPU: {} layers = {:.2f} ms ({:.2f} outside layers + {} "
              "dense x {:.3f} + {} with experts x {:.3f}; from {} layers {:.2f} ms and 2 "
              "layers {:.2f} ms) = {:.0f} tokens/s a GPU of {}. Not in it: rows between GPUs "
              "({:.2f} GB a step and GPU), uneven experts, the engine between steps.\n",
              batch, options_.model_layers, step.step_ms, outside_ms, options_.model_dense_layers,
              step.dense_layer_ms, options_.model_layers - options_.model_dense_layers,
              step.expert_layer_ms, options_.shape.layers, all_ms, two_ms, per_s, options_.ranks,
              sent * 1e-9)}});
  }

  const cuda::DeviceTable& device_table_;
  const SliceOptions options_;
  const cuda::KernelTable& table_;
  const std::unique_ptr<KernelSet> inner_;
  MeasuredKernels kernels_;
  const ModelConfig config_;
  std::unique_ptr<Device> device_;
  // Go before the device. All layers without graphs; with them; the first two with them; all with
  // graphs of kernels that start one after the other.
  std::unique_ptr<SliceRunner> plain_, all_, two_, apart_;
  std::vector<float> first_logits_;
  Json out_ = {{"model", ""},
               {"table", ""},
               {"memory_gib", 0},
               {"steps", Json::array()},
               {"projection", Json::array()},
               {"lines", Json::array()},
               {"failures", Json::array()}};
};

}  // namespace

SliceOptions SliceOptions::Small() {
  SliceOptions options;
  options.shape = {.small = true, .layers = 3, .experts = 8};
  options.limits = {.rows_max = 9, .sequences_max = 3, .context = 16, .block_tokens = 8};
  options.batches = {3, 1};
  options.prefills = {4, 9};
  options.steps = 1;
  options.card = {
      .pool_bytes = 4099, .flush_bytes = 64, .workspace_bytes = 4096, .case_ms = 0, .runs_max = 1};
  return options;
}

ProjectedStep Project(const SliceTimes& t, int64_t model_layers, int64_t dense_layers) {
  ProjectedStep p;
  p.expert_layer_ms = std::max(
      0.0, (t.all_ms - t.two_ms) / static_cast<double>(std::max<int64_t>(t.layers - 2, 1)));
  p.dense_layer_ms = std::max(0.0, t.two_ms - p.expert_layer_ms - t.outside_ms);
  p.step_ms = t.outside_ms + static_cast<double>(dense_layers) * p.dense_layer_ms +
              static_cast<double>(model_layers - dense_layers) * p.expert_layer_ms;
  return p;
}

Json RunSlice(const cuda::DeviceTable& device, const cuda::KernelTable& table, const Limits& limits,
              const SliceOptions& options) {
  return Slice(device, table, limits, options).Run();
}

}  // namespace choir::gpu
