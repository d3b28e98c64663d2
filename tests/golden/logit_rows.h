// What the suites of logits on devices share: logits by row, and parameters of a suite.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace choir::golden {

using Row = std::vector<float>;

inline std::vector<Row> RowsOf(const std::vector<float>& logits, int32_t vocab) {
  std::vector<Row> rows;
  for (auto it = logits.begin(); it != logits.end(); it += vocab) rows.emplace_back(it, it + vocab);
  return rows;
}

// A checkpoint and a table of kernels.
using OnTable = std::tuple<std::string, std::string>;

inline std::string NameOf(const testing::TestParamInfo<OnTable>& info) {
  return std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
}

}  // namespace choir::golden
