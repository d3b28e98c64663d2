// Ops that only move or touch each element once. Plain loops suffice where memory is the limit.
#include <cstring>

#include "common/tensor/small_floats.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/work.h"

namespace choir::cpu {

void CpuKernels::Embedding(const EmbeddingArgs& a, const Stream& stream) const {
  const int64_t width = a.table.dim(1);
  CHOIR_CHECK(a.y.dim(0) == a.ids.dim(0) && a.y.dim(1) == width);
  ForRanges(stream, a.ids.dim(0), width / 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t id = a.ids.data<int32_t>()[t];
      CHOIR_CHECK(id >= 0 && id < a.table.dim(0));
      float* y = a.y.f32() + t * width;
      if (a.table.dtype() == DType::kBF16) {
        const bf16* row = a.table.b16() + id * width;
        for (int64_t i = 0; i < width; ++i) y[i] = ToF32(row[i]);
      } else if (a.table.dtype() == DType::kF16) {
        const uint16_t* row = a.table.data<uint16_t>() + id * width;
        for (int64_t i = 0; i < width; ++i) y[i] = F16ToF32(row[i]);
      } else {
        std::memcpy(y, a.table.f32() + id * width, static_cast<size_t>(width) * sizeof(float));
      }
    }
  });
}

void CpuKernels::RmsNorm(const RmsNormArgs& a, const Stream& stream) const {
  const int64_t width = a.x.dim(1);
  const int64_t x_stride = a.x_stride != 0 ? a.x_stride : width;
  const int64_t y_stride = a.y_stride != 0 ? a.y_stride : width;
  CHOIR_CHECK(a.w.dim(0) == width && a.y.dim(0) == a.x.dim(0));
  ForRanges(stream, a.x.dim(0), width / 8, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      micro_.rms({.x = a.x.f32() + t * x_stride,
                  .w = a.w.raw(),
                  .w_is_bf16 = a.w.dtype() == DType::kBF16,
                  .y = a.y.f32() + t * y_stride,
                  .width = width,
                  .eps = a.eps});
    }
  });
}

void CpuKernels::Rope(const RopeArgs& a, const Stream& stream) const {
  const int64_t half = a.rotary_dim / 2;
  CHOIR_CHECK(a.rotary_dim % 2 == 0 && a.cos.dim(1) == half && a.sin.dim(1) == half);
  ForRanges(stream, a.num_tokens, a.num_heads * half, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t position = a.positions.data<int32_t>()[t];
      CHOIR_CHECK(position >= 0 && position < a.cos.dim(0));
      const float* c = a.cos.f32() + position * half;
      const float* s = a.sin.f32() + position * half;
      for (int64_t h = 0; h < a.num_heads; ++h) {
        const float* x = a.x.f32() + t * a.token_stride + h * a.head_stride + a.offset;
        float* y = a.Of(t, h);
        const int64_t step = a.interleaved ? 2 : 1;
        const int64_t other = a.interleaved ? 1 : half;
        for (int64_t i = 0; i < half; ++i) {
          const float u = x[i * step];
          const float v = x[i * step + other];
          y[i * step] = u * c[i] - v * s[i];
          y[i * step + other] = v * c[i] + u * s[i];
        }
      }
    }
  });
}

void CpuKernels::SwiGlu(const SwiGluArgs& a, const Stream& stream) const {
  constexpr int64_t kBlock = 1024;
  const int64_t count = a.y.num_elements();
  CHOIR_CHECK(a.gate.num_elements() == count && a.up.num_elements() == count);
  ForRanges(stream, CeilDiv(count, kBlock), kBlock / 4, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * kBlock;
    micro_.swiglu(a.gate.f32() + at, a.up.f32() + at, a.y.f32() + at,
                  std::min(end * kBlock, count) - at);
  });
}

void CpuKernels::StoreKv(const StoreKvArgs& a, const Stream& stream) const {
  const int64_t width = a.x.dim(1);
  const int64_t stride = a.x_stride != 0 ? a.x_stride : width;
  CHOIR_CHECK(a.kv_column >= 0 && a.kv_column + width <= a.kv.width());
  CHOIR_CHECK(static_cast<int64_t>(a.slots.size()) == a.x.dim(0));
  ForRanges(stream, a.x.dim(0), width / 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t slot = a.slots[static_cast<size_t>(t)];
      CHOIR_CHECK(slot >= 0 && slot < a.kv.data.dim(0) * a.kv.block_tokens());
      const float* x = a.x.f32() + t * stride;
      const int64_t at = slot * a.kv.width() + a.kv_column;
      if (a.kv.data.dtype() == DType::kBF16) {
        micro_.round_bf16(x, a.kv.data.b16() + at, width);
      } else {
        std::memcpy(a.kv.data.f32() + at, x, static_cast<size_t>(width) * sizeof(float));
      }
    }
  });
}

void CpuKernels::Combine(const CombineArgs& a, const Stream& stream) const {
  const int64_t width = a.out.dim(1);
  const int64_t top_k = a.weights.dim(1);
  CHOIR_CHECK(a.y.dim(0) == a.out.dim(0) * top_k && a.weights.dim(0) == a.out.dim(0));
  constexpr int64_t kBlock = 256;  // columns whose sum stays in L1
  ForRanges(stream, a.out.dim(0), width * top_k / 8, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* weights = a.weights.f32() + t * top_k;
      for (int64_t column = 0; column < width; column += kBlock) {
        const int64_t count = std::min(kBlock, width - column);
        float sum[kBlock] = {};
        for (int64_t k = 0; k < top_k; ++k) {
          const float* y = a.y.f32() + (t * top_k + k) * width + column;
          for (int64_t i = 0; i < count; ++i) sum[i] += weights[k] * y[i];
        }
        float* out = a.out.f32() + t * width + column;
        for (int64_t i = 0; i < count; ++i) out[i] = a.accumulate ? out[i] + sum[i] : sum[i];
      }
    }
  });
}

}  // namespace choir::cpu
