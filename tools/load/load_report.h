// What a load run came to: latencies as percentiles, throughput, errors. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tools/load/load_client.h"

namespace choir {

// Nearest rank: a value that was measured, of complete requests only. Seconds.
struct Percentiles {
  size_t count = 0;
  double p50 = 0, p90 = 0, p99 = 0, max = 0;
};
Percentiles PercentilesOf(std::vector<double> values);

struct LoadReport {
  double seconds = 0;  // from the first due time to the last end
  int64_t complete = 0;
  std::map<std::string, int64_t> errors;  // "503: message" to how many
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  Percentiles ttft;   // due to first piece
  Percentiles itl;    // between pieces of a stream
  Percentiles total;  // due to end
  double requests_per_s() const { return static_cast<double>(complete) / seconds; }
  double output_tokens_per_s() const { return static_cast<double>(output_tokens) / seconds; }
  double prompt_tokens_per_s() const { return static_cast<double>(prompt_tokens) / seconds; }
};

LoadReport ReportOf(const std::vector<LoadRecord>& records);

nlohmann::ordered_json ToJson(const Percentiles& percentiles);
nlohmann::ordered_json ToJson(const LoadReport& report);
// For people; milliseconds.
std::string ToTable(const LoadReport& report);

}  // namespace choir
