// What the card allows, measured in the run that compares with it: a copy inside its memory, and
// cuBLASLt's dense products of random numbers.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tools/gpu/card.h"
#include "tools/gpu/floor.h"

namespace choir::gpu {

// Times of cuBLASLt, the best of the ways that it offers for a shape. Each shape is measured once.
class DenseTimes {
 public:
  DenseTimes(const cuda::CublasLtTable& table, Card* card);

  const std::string& missing() const { return missing_; }  // why there are none; empty: there are
  // Microseconds; empty where cuBLASLt has no way for the shape.
  std::optional<double> Of(const cuda::DenseShape& shape);

 private:
  using Key = std::tuple<int64_t, int64_t, int64_t, cuda::DenseFormat>;
  std::optional<double> Measure(const cuda::DenseShape& shape);

  const cuda::CublasLtTable& table_;
  Card& card_;
  std::string missing_;
  std::map<Key, std::optional<double>> known_;
};

const char* NameOf(cuda::DenseFormat format);

struct LimitShapes {
  size_t copy_bytes = size_t{2} << 30;
  std::vector<int64_t> sides = {8192};  // of square products
  // Further products that are large enough to fill the card: m, n, k.
  std::vector<std::tuple<int64_t, int64_t, int64_t>> products = {
      {32768, 4096, 7168}, {16384, 7168, 16384}, {8192, 18432, 7168}};
};

// {"copy_gb_per_s", "bf16_tflops", "f8_tflops", "f8_blocks_tflops", "dense": [...]}; "missing" in
// place of products where there is no cuBLASLt. progress hears what is there after each
// measurement, for the next may break the card.
using LimitsProgress = std::function<void(const nlohmann::ordered_json&)>;
nlohmann::ordered_json MeasureLimits(const cuda::CublasLtTable& table, Card& card,
                                     const LimitShapes& shapes,
                                     const LimitsProgress& progress = nullptr);

// What MeasureLimits wrote.
Limits LimitsOf(const nlohmann::ordered_json& limits);

}  // namespace choir::gpu
