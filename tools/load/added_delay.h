// What router and gateway add to the time of workers whose steps end at multiples of a known time
// (choir-fixed-step-worker) on this machine's monotonic clock. Pure.
#pragma once

#include <vector>

#include "tools/load/load_client.h"
#include "tools/load/load_report.h"

namespace choir {

struct AddedDelay {
  // First piece, against a request that is with the worker at once: it takes part in the step that
  // begins at the next multiple. Missing that one costs a whole step and is counted.
  Percentiles ttft;
  // Any piece, against the end of the last step before it came: below a step's length.
  Percentiles piece;
  // Distance of two pieces beyond the step's length; late and early ones by their absolute value.
  Percentiles itl;
};

// Only workers that are never idle begin their steps at multiples: records of the first and last
// `edge_seconds` of the run are left out, those whose pieces hold several tokens as well.
AddedDelay AddedDelayOf(const std::vector<LoadRecord>& records, double step_seconds,
                        double edge_seconds);

}  // namespace choir
