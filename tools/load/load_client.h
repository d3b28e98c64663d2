// Sends a planned load to /v1/completions over real HTTP, streaming, and notes when each piece
// came. One thread, libcurl's multi interface; connections are kept alive.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "tools/load/load_plan.h"

namespace choir {

struct LoadTarget {
  std::string url;  // of the REST API, without /v1
  std::string api_key;
  std::string ca;  // PEM file of its certificate's authorities; empty: the system's
  std::string model;
  double temperature = 0;
  int64_t streams = 8;            // open requests at most; of kClosed: as many all the time
  double timeout_seconds = 600;   // of a request
  double seconds_max = INFINITY;  // from the start; then nothing of the plan is begun any more
};

// Times in seconds of the monotonic clock.
struct LoadRecord {
  double due = 0;  // when it should have been sent: waiting for a free stream counts as latency
  double end = 0;
  int code = 0;                // HTTP status; 0: no answer
  std::string error;           // empty: complete, with [DONE]
  std::vector<double> pieces;  // when each piece of the answer came
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
};

// In the plan's order, without what was not begun. Fails only when libcurl cannot start: errors of
// requests are in the records.
StatusOr<std::vector<LoadRecord>> RunLoad(const LoadTarget& target, Arrival arrival,
                                          const std::vector<PlannedRequest>& plan);

}  // namespace choir
