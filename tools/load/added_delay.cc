#include "tools/load/added_delay.h"

#include <algorithm>
#include <cmath>

namespace choir {

AddedDelay AddedDelayOf(const std::vector<LoadRecord>& records, double step_seconds,
                        double edge_seconds) {
  double begin = INFINITY;
  double end = 0;
  for (const LoadRecord& r : records) {
    begin = std::min(begin, r.due);
    end = std::max(end, r.end);
  }
  std::vector<double> ttft, piece, itl;
  for (const LoadRecord& r : records) {
    if (!r.error.empty() || r.pieces.empty()) continue;
    if (r.due < begin + edge_seconds || r.end > end - edge_seconds) continue;
    if (static_cast<int64_t>(r.pieces.size()) != r.output_tokens) continue;
    const double ideal = (std::ceil(r.due / step_seconds) + 1) * step_seconds;
    ttft.push_back(r.pieces.front() - ideal);
    for (size_t i = 0; i < r.pieces.size(); ++i) {
      piece.push_back(std::fmod(r.pieces[i], step_seconds));
      if (i > 0) itl.push_back(std::abs(r.pieces[i] - r.pieces[i - 1] - step_seconds));
    }
  }
  return {PercentilesOf(std::move(ttft)), PercentilesOf(std::move(piece)),
          PercentilesOf(std::move(itl))};
}

}  // namespace choir
