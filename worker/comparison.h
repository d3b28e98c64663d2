// What the comparisons of kernel_check.cc have in common: what differs between results, and experts
// that show which of them a kernel took.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "kernels/ops/moe.h"

namespace choir {

inline constexpr int64_t kF8Side = 128;
// Maps of the last experts, and those of gates and ups from 13 on, lie beyond 4 KB of a kernel's
// parameters.
inline constexpr int64_t kManyExperts = 64, kExpertWithin = 13;

// The first result that is off by more than `part` of the largest one; empty: none is.
inline std::string Difference(const std::string& what, std::span<const float> got,
                              std::span<const float> want, int64_t width, float part) {
  float most = 0;
  for (const float value : want) most = std::max(most, std::abs(value));
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::abs(got[i] - want[i]) <= part * most) continue;  // a NaN is not
    const auto at = static_cast<int64_t>(i);
    return fmt::format("{}: row {}, output {} is {} instead of {}", what, at / width, at % width,
                       got[i], want[i]);
  }
  return "";
}

// The same rows with fewer and with more beside them, which come behind; empty: the same bits.
inline std::string BitsApart(const std::string& what, std::span<const float> rows,
                             std::span<const float> in_company) {
  CHOIR_CHECK(rows.size() <= in_company.size());
  const bool same = std::memcmp(rows.data(), in_company.data(), rows.size_bytes()) == 0;
  return same ? "" : what + ": bits of a row depend on the rows beside it";
}

// Of many experts three have rows: the first one, one within, and the last one.
inline std::vector<int32_t> OffsetsOfMany(int32_t first, int32_t within, int32_t last) {
  std::vector<int32_t> offsets(kManyExperts + 1, first);
  offsets[0] = 0;
  std::fill(offsets.begin() + kExpertWithin + 1, offsets.end(), first + within);
  offsets.back() += last;
  return offsets;
}

// Every expert differs from those before and behind it, and those three from each other.
inline std::vector<ExpertWeights> ManyOf(const std::vector<ExpertWeights>& three) {
  static_assert(kExpertWithin % 3 == 1);
  std::vector<ExpertWeights> experts(kManyExperts);
  for (size_t e = 0; e < experts.size(); ++e) experts[e] = three[e % 3];
  experts[experts.size() - 2] = three[0];
  experts.back() = three[2];
  return experts;
}

}  // namespace choir
