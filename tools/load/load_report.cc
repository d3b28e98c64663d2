#include "tools/load/load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

std::string Row(const char* name, const Percentiles& p) {
  return fmt::format("{:<26}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", name, p.p50 * 1e3, p.p90 * 1e3,
                     p.p99 * 1e3, p.max * 1e3);
}

}  // namespace

Percentiles PercentilesOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto rank = [&](double share) {
    const double n = std::ceil(share * static_cast<double>(values.size()));
    return values[static_cast<size_t>(std::max(n, 1.0)) - 1];
  };
  return {values.size(), rank(0.5), rank(0.9), rank(0.99), values.back()};
}

LoadReport ReportOf(const std::vector<LoadRecord>& records) {
  LoadReport report;
  std::vector<double> ttft, itl, total;
  double begin = records.empty() ? 0 : records.front().due;
  double end = begin;
  for (const LoadRecord& r : records) {
    begin = std::min(begin, r.due);
    end = std::max(end, r.end);
    report.output_tokens += r.output_tokens;
    if (!r.error.empty()) {
      ++report.errors[fmt::format("{}: {}", r.code, r.error)];
      continue;
    }
    ++report.complete;
    report.prompt_tokens += r.prompt_tokens;
    report.cached_tokens += r.cached_tokens;
    if (!r.pieces.empty()) ttft.push_back(r.pieces.front() - r.due);
    total.push_back(r.end - r.due);
    for (size_t i = 1; i < r.pieces.size(); ++i) itl.push_back(r.pieces[i] - r.pieces[i - 1]);
  }
  report.seconds = std::max(end - begin, 1e-9);
  report.ttft = PercentilesOf(std::move(ttft));
  report.itl = PercentilesOf(std::move(itl));
  report.total = PercentilesOf(std::move(total));
  return report;
}

Json ToJson(const Percentiles& p) {
  return {
      {"count", p.count}, {"p50_s", p.p50}, {"p90_s", p.p90}, {"p99_s", p.p99}, {"max_s", p.max}};
}

Json ToJson(const LoadReport& r) {
  Json errors = Json::object();
  for (const auto& [error, count] : r.errors) errors[error] = count;
  return {{"seconds", r.seconds},
          {"complete", r.complete},
          {"errors", errors},
          {"requests_per_s", r.requests_per_s()},
          {"prompt_tokens", r.prompt_tokens},
          {"cached_tokens", r.cached_tokens},
          {"output_tokens", r.output_tokens},
          {"prompt_tokens_per_s", r.prompt_tokens_per_s()},
          {"output_tokens_per_s", r.output_tokens_per_s()},
          {"ttft", ToJson(r.ttft)},
          {"itl", ToJson(r.itl)},
          {"total", ToJson(r.total)}};
}

std::string ToTable(const LoadReport& r) {
  std::string out =
      fmt::format("{:<26}{:>10}{:>10}{:>10}{:>10}\n", "milliseconds", "p50", "p90", "p99", "max");
  out += Row("time to first token", r.ttft);
  out += Row("between pieces (ITL)", r.itl);
  out += Row("whole request", r.total);
  out += fmt::format(
      "\n{} requests complete in {:.2f} s: {:.2f} requests/s, {:.1f} output tokens/s, {:.1f} "
      "prompt "
      "tokens/s ({} of {} prompt tokens cached)\n",
      r.complete, r.seconds, r.requests_per_s(), r.output_tokens_per_s(), r.prompt_tokens_per_s(),
      r.cached_tokens, r.prompt_tokens);
  for (const auto& [error, count] : r.errors) out += fmt::format("{} failed: {}\n", count, error);
  return out;
}

}  // namespace choir
