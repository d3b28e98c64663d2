#include "tools/load/load_plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <random>

namespace choir {
namespace {

// Ids below are often special, ids above may be missing in small vocabularies.
constexpr int32_t kFirstToken = 16;
constexpr int32_t kTokens = 200;

// Standard distributions differ between libraries; these draws do not.
class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  double Unit() { return static_cast<double>(engine_() >> 11) * 0x1.0p-53; }  // [0, 1)
  int64_t Between(const LengthRange& r) {
    const auto span = static_cast<uint64_t>(r.max - r.min + 1);
    return r.min + static_cast<int64_t>(engine_() % span);
  }
  int32_t Token() { return kFirstToken + static_cast<int32_t>(engine_() % kTokens); }

 private:
  std::mt19937_64 engine_;
};

bool ReadLength(const std::string& text, int64_t* value) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && at == end;
}

}  // namespace

StatusOr<LengthRange> ReadLengthRange(const std::string& text, int64_t limit) {
  const size_t dots = text.find("..");
  LengthRange range;
  bool good = ReadLength(text.substr(0, dots), &range.min);
  range.max = range.min;
  if (dots != std::string::npos) good = good && ReadLength(text.substr(dots + 2), &range.max);
  if (!good || range.min < 1 || range.max < range.min || range.max > limit) {
    return InvalidArgument("'{}': must be a number or MIN..MAX, from 1 to {}", text, limit);
  }
  return range;
}

std::vector<PlannedRequest> PlanLoad(const LoadShape& shape) {
  Draw draw(shape.seed);
  std::vector<int32_t> prefix(static_cast<size_t>(shape.shared_prefix));
  std::generate(prefix.begin(), prefix.end(), [&] { return draw.Token(); });
  std::vector<PlannedRequest> plan;
  double at = 0;
  for (int64_t i = 0; i < shape.requests; ++i) {
    PlannedRequest request{.at_seconds = at};
    const int64_t length = draw.Between(shape.prompt);
    const auto shared = static_cast<int64_t>(prefix.size());
    request.prompt.assign(prefix.begin(), prefix.begin() + std::min(length, shared));
    while (static_cast<int64_t>(request.prompt.size()) < length) {
      request.prompt.push_back(draw.Token());
    }
    request.output = draw.Between(shape.output);
    plan.push_back(std::move(request));
    if (shape.arrival == Arrival::kConstant) at += 1 / shape.rate;
    if (shape.arrival == Arrival::kPoisson) at -= std::log1p(-draw.Unit()) / shape.rate;
  }
  return plan;
}

}  // namespace choir
