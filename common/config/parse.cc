// Conversion of option text: sizes, durations, nearest names.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

#include "common/config/options.h"

namespace choir {
namespace {

// Splits "1.5 GiB" into 1.5 and "GiB".
bool SplitNumber(const std::string& text, double* number, std::string* unit) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  const auto [rest, error] = std::from_chars(begin, end, *number);
  if (error != std::errc() || !std::isfinite(*number) || *number < 0) return false;
  unit->assign(rest, end);
  unit->erase(0, unit->find_first_not_of(' ') == std::string::npos ? unit->size()
                                                                   : unit->find_first_not_of(' '));
  return true;
}

}  // namespace

StatusOr<uint64_t> ParseInteger(const std::string& text, uint64_t min, uint64_t max) {
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && rest == end && value >= min && value <= max) return value;
  return InvalidArgument("'{}' is not an integer from {} to {}", text, min, max);
}

StatusOr<uint64_t> ParseBytes(const std::string& text) {
  double number = 0;
  std::string unit;
  static constexpr struct {
    const char* name;
    double factor;
  } kUnits[] = {{"", 1},
                {"B", 1},
                {"KiB", 1024.0},
                {"MiB", 1048576.0},
                {"GiB", 1073741824.0},
                {"TiB", 1099511627776.0},
                {"KB", 1e3},
                {"MB", 1e6},
                {"GB", 1e9},
                {"TB", 1e12}};
  if (SplitNumber(text, &number, &unit)) {
    for (const auto& u : kUnits) {
      if (unit == u.name && number * u.factor < 9.2e18) {
        return static_cast<uint64_t>(std::llround(number * u.factor));
      }
    }
  }
  return InvalidArgument("'{}' is not a size; write for example 512MiB, 1GiB or 4096", text);
}

StatusOr<Duration> ParseDuration(const std::string& text) {
  double number = 0;
  std::string unit;
  static constexpr struct {
    const char* name;
    double nanoseconds;
  } kUnits[] = {{"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}, {"us", 1e3}, {"", 1e9}};
  if (SplitNumber(text, &number, &unit)) {
    for (const auto& u : kUnits) {
      if (unit == u.name && number * u.nanoseconds < 9.2e18) {
        return Duration(std::llround(number * u.nanoseconds));
      }
    }
  }
  return InvalidArgument("'{}' is not a duration; write for example 500ms, 30s or 5m", text);
}

std::string NearestName(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j <= candidate.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t replaced = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

std::string NearestHint(const std::string& word, const std::vector<std::string>& candidates) {
  const std::string near = NearestName(word, candidates);
  return near.empty() ? "" : fmt::format(", did you mean '{}'?", near);
}

std::string NearestOrAllHint(const std::string& word, const std::vector<std::string>& candidates) {
  const std::string hint = NearestHint(word, candidates);
  return hint.empty() ? fmt::format("; known are {}", fmt::join(candidates, ", ")) : hint;
}

}  // namespace choir
