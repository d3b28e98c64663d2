#include "kernels/reference/gpu_ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/reference/reference_kernels.h"

namespace choir::reference {
namespace {

void Put(const TensorView& t, int64_t i, double value) {
  if (t.dtype() == DType::kBF16) {
    t.b16()[i] = ToBF16(static_cast<float>(value));
  } else {
    t.f32()[i] = static_cast<float>(value);
  }
}

// x[row] · w[expert]'s row n over columns [begin, end), without scales.
double Dot(const GroupedGemmArgs& a, int64_t row, int64_t w_row, int64_t begin, int64_t end) {
  const int64_t width = a.x.dim(1);
  double sum = 0.0;
  for (int64_t k = begin; k < end; ++k) {
    if (a.x.dtype() == DType::kF8E4M3) {
      sum += static_cast<double>(F8ToF32(a.x.data<uint8_t>()[row * width + k])) *
             static_cast<double>(F8ToF32(a.w.data<uint8_t>()[w_row * width + k]));
    } else {
      sum += At(a.x, row * width + k) * At(a.w, w_row * width + k);
    }
  }
  return sum;
}

std::pair<int64_t, int64_t> RowsOf(const GroupedGemmArgs& a, int64_t expert) {
  const auto i = static_cast<size_t>(expert);
  if (a.counts.empty()) return {a.offsets[i], a.offsets[i + 1]};
  const int64_t begin = expert * (a.x.dim(0) / a.num_experts());
  return {begin, begin + a.counts.data<int32_t>()[i]};
}

}  // namespace

void Permute(const PermuteArgs& a) {
  const int64_t experts = a.offsets.dim(0) - 1;
  const int64_t pairs = a.expert_ids.num_elements();
  const int64_t width = a.x.dim(1);
  int32_t row = 0;
  std::fill_n(a.row_of.data<int32_t>(), pairs, -1);
  for (int64_t e = 0; e < experts; ++e) {
    a.offsets.data<int32_t>()[e] = row;
    for (int64_t p = 0; p < pairs; ++p) {
      if (a.expert_ids.data<int32_t>()[p] != e) continue;
      for (int64_t i = 0; i < width; ++i) {
        Put(a.y, row * width + i, At(a.x, p / a.expert_ids.dim(1) * a.x_pitch() + i));
      }
      a.row_of.data<int32_t>()[p] = row++;
    }
  }
  a.offsets.data<int32_t>()[experts] = row;
  for (int64_t e = 0; !a.counts.empty() && e < experts; ++e) {
    a.counts.data<int64_t>()[e] += a.offsets.data<int32_t>()[e + 1] - a.offsets.data<int32_t>()[e];
  }
}

void Unpermute(const UnpermuteArgs& a) {
  const int64_t width = a.out.dim(1);
  const int64_t top_k = a.weights.dim(1);
  for (int64_t i = 0; i < a.out.num_elements(); ++i) {
    double sum = a.accumulate ? static_cast<double>(a.out.f32()[i]) : 0.0;
    for (int64_t p = i / width * top_k; p < (i / width + 1) * top_k; ++p) {
      const int64_t row = a.row_of.data<int32_t>()[p];
      if (row >= 0)
        sum += static_cast<double>(a.weights.f32()[p]) * a.y.f32()[row * width + i % width];
    }
    a.out.f32()[i] = static_cast<float>(sum);
  }
}

void PlaceChoices(const PlaceChoicesArgs& a) {
  const int64_t experts = a.copies.dim(0) - 1;
  const int64_t pairs = a.expert_ids.num_elements() / a.sources;
  const auto* copies = a.copies.data<int32_t>();
  for (int32_t s = 0; s < a.sources; ++s) {
    std::vector<int32_t> turns(static_cast<size_t>(experts), s);  // by expert
    for (int64_t p = 0; p < pairs; ++p) {
      const int32_t expert = a.expert_ids.data<int32_t>()[s * pairs + p];
      int32_t rank = -1, slot = -1;
      if (expert >= 0 && expert < experts) {
        const int32_t count = copies[expert + 1] - copies[expert];
        const int32_t copy = copies[expert] + turns[static_cast<size_t>(expert)]++ % count;
        rank = a.copy_rank.data<int32_t>()[copy];
        slot = a.copy_slot.data<int32_t>()[copy];
      }
      a.slot_of.data<int32_t>()[s * pairs + p] = rank == a.self ? slot : -1;
      if (s != a.self) continue;
      a.row_of.data<int32_t>()[p] = rank < 0 ? -1 : static_cast<int32_t>(rank * pairs + p);
    }
  }
}

void GatherRows(const GatherRowsArgs& a) {
  const int64_t width = a.y.dim(1);
  for (int64_t p = 0; p < a.y.dim(0); ++p) {
    const int64_t row = a.row_of.data<int32_t>()[p];
    if (row >= 0) std::copy_n(a.x.f32() + row * width, width, a.y.f32() + p * width);
  }
}

void GroupedGemm(const GroupedGemmArgs& a) {
  const int64_t outputs = a.y.dim(1);
  const int64_t width = a.x.dim(1);
  const bool scaled = a.x.dtype() == DType::kF8E4M3;
  const int64_t step = scaled ? kF8Block : width;
  const int64_t blocks_down = (outputs + kF8Block - 1) / kF8Block;
  const int64_t blocks_across = (width + kF8Block - 1) / kF8Block;
  for (int64_t e = 0; e < a.num_experts(); ++e) {
    const auto [begin, end] = RowsOf(a, e);
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t n = 0; n < outputs; ++n) {
        double sum = 0.0;
        for (int64_t k = 0; k < width; k += step) {
          const double part = Dot(a, r, e * outputs + n, k, std::min(k + step, width));
          const int64_t w_row = e * blocks_down + n / kF8Block;
          sum += !scaled ? part
                         : part * a.x_scale.f32()[r * blocks_across + k / kF8Block] *
                               a.w_scale.f32()[w_row * blocks_across + k / kF8Block];
        }
        Put(a.y, r * outputs + n, sum);
      }
    }
  }
}

void QuantizeF8(const QuantizeF8Args& a) {
  const int64_t width = a.x.dim(1);
  const int64_t blocks = a.y_scale.dim(1);
  const int64_t y_stride = a.y_stride != 0 ? a.y_stride : width;
  const int64_t scale_stride = a.y_scale_stride != 0 ? a.y_scale_stride : blocks;
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t begin = b * kF8Block;
      const int64_t end = std::min(width, begin + kF8Block);
      float size = 1e-4f;
      for (int64_t k = begin; k < end; ++k) {
        size = std::max(size, std::abs(static_cast<float>(At(a.x, t * width + k))));
      }
      const float scale = size / 448.0f;
      a.y_scale.f32()[t * scale_stride + b] = scale;
      for (int64_t k = begin; k < end; ++k) {
        const auto value = static_cast<float>(At(a.x, t * width + k));
        a.y.data<uint8_t>()[t * y_stride + k] = ToF8(value / scale);
      }
    }
  }
}

void Dequantize(const DequantizeArgs& a) {
  const int64_t width = a.w.dim(1);
  for (int64_t i = 0; i < a.w.num_elements(); ++i) {
    const int64_t row = i / width, column = i % width;
    if (a.scale_of_rows()) {
      const float scale = a.w_scale.f32()[row * a.w_scale.dim(1) + column / kF8Block];
      Put(a.y, i, F8ToF32(a.w.data<uint8_t>()[i]) * scale);
    } else {
      Put(a.y, i, WeightAt(a.w, a.w_scale, row, column));
    }
  }
}

}  // namespace choir::reference
