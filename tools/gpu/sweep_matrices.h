// Matrices with what is needed to bound products of them, and rows of experts: what the cases of
// products and of experts draw alike.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops/linear.h"
#include "tools/gpu/sweep_cases.h"

namespace choir::gpu {

// Sums of FP8 products as tensor cores keep them: 13 bits behind the largest (DeepSeek-V3,
// arXiv 2412.19437, 3.3.2), of two neighbouring terms.
inline constexpr double kF8Unit = 1.0 / (1 << 12);

struct Matrix {
  TensorView w, scale;
  double most = 0;  // of a row's norm
};

inline double NormOf(std::span<const float> row, double scale) {
  double sum = 0;
  for (const float v : row) sum += static_cast<double>(v) * v;
  return std::sqrt(sum) * scale;
}

inline std::vector<double> NormsOf(const Draw::Values& x, int64_t width, double scale = 1) {
  std::vector<double> norms;
  for (size_t at = 0; at + static_cast<size_t>(width) <= x.f32.size();
       at += static_cast<size_t>(width)) {
    norms.push_back(NormOf(std::span(x.f32).subspan(at, static_cast<size_t>(width)), scale));
  }
  return norms;
}

inline double Most(const std::vector<double>& norms) {
  return norms.empty() ? 0 : *std::max_element(norms.begin(), norms.end());
}

// Scales below `top`: of weights whose values are around 1 then.
inline constexpr float kScaleTop = 1.0f / 128;
inline constexpr double kF4Top =
    6.0 / 8;  // the largest value times the largest scale of Draw::Make

inline Matrix MakeMatrix(Draw& draw, DType dtype, int64_t rows, int64_t width) {
  const Draw::Values w = draw.Make(dtype, {rows, width});
  Matrix m{w.view, {}};
  if (dtype == DType::kF8E4M3) {
    m.scale = draw.Make(DType::kF32, {(rows + 127) / 128, (width + 127) / 128}, kScaleTop / 4,
                        kScaleTop * 3 / 4)
                  .view;
    m.most = Most(NormsOf(w, width, kScaleTop));
  } else if (dtype == DType::kF4E2M1) {
    m.scale = draw.Make(DType::kU8, {rows, width / kF4Block}).view;
    m.most = kF4Top * std::sqrt(static_cast<double>(width));
  } else {
    m.most = Most(NormsOf(w, width));
  }
  return m;
}

inline DType AnyFormat(Draw& draw) {
  constexpr DType kAll[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kF4E2M1};
  return kAll[draw.Int(0, 4)];
}

// Ragged: some experts have no rows, some one, some many.
inline std::vector<int32_t> Offsets(Draw& draw) {
  std::vector<int32_t> offsets = {0};
  const int64_t experts = draw.Int(1, draw.sizes().experts_max);
  int64_t left = draw.sizes().rows_max;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t kind = draw.Int(0, 3);
    const int64_t rows = kind == 0 ? 0 : kind == 1 ? 1 : draw.Size(std::max<int64_t>(left / 2, 1));
    offsets.push_back(offsets.back() + static_cast<int32_t>(std::min(rows, left)));
    left -= std::min(rows, left);
  }
  if (offsets.back() == 0) ++offsets.back();
  return offsets;
}

inline size_t ExpertOf(const std::vector<int32_t>& offsets, int64_t row) {
  return static_cast<size_t>(std::upper_bound(offsets.begin(), offsets.end(), row) -
                             offsets.begin() - 1);
}

}  // namespace choir::gpu
