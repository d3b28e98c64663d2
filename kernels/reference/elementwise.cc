#include <cmath>

#include "kernels/reference/reference_kernels.h"

namespace choir {

std::unique_ptr<KernelSet> MakeReferenceKernels() {
  return std::make_unique<reference::ReferenceKernels>();
}

namespace reference {

double Silu(double x) { return x / (1.0 + std::exp(-x)); }

void ReferenceKernels::Embedding(const EmbeddingArgs& a, const Stream&) const {
  const int64_t width = a.table.dim(1);
  for (int64_t t = 0; t < a.ids.dim(0); ++t) {
    const int64_t id = a.ids.data<int32_t>()[t];
    CHOIR_CHECK(id >= 0 && id < a.table.dim(0));
    for (int64_t i = 0; i < width; ++i) {
      a.y.f32()[t * width + i] = static_cast<float>(At(a.table, id * width + i));
    }
  }
}

void ReferenceKernels::RmsNorm(const RmsNormArgs& a, const Stream&) const {
  const int64_t width = a.x.dim(1);
  const int64_t x_stride = a.x_stride != 0 ? a.x_stride : width;
  const int64_t y_stride = a.y_stride != 0 ? a.y_stride : width;
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    const float* x = a.x.f32() + t * x_stride;
    double sum = 0.0;
    for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * x[i];
    const double inverse = 1.0 / std::sqrt(sum / static_cast<double>(width) + a.eps);
    for (int64_t i = 0; i < width; ++i) {
      a.y.f32()[t * y_stride + i] = static_cast<float>(x[i] * inverse * At(a.w, i));
    }
  }
}

void ReferenceKernels::Rope(const RopeArgs& a, const Stream&) const {
  const int64_t half = a.rotary_dim / 2;
  for (int64_t t = 0; t < a.num_tokens; ++t) {
    const int64_t position = a.positions.data<int32_t>()[t];
    CHOIR_CHECK(position >= 0 && position < a.cos.dim(0));
    for (int64_t h = 0; h < a.num_heads; ++h) {
      const float* x = a.x.f32() + t * a.token_stride + h * a.head_stride + a.offset;
      float* y = a.Of(t, h);
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = a.interleaved ? 2 * i : i;
        const int64_t second = a.interleaved ? 2 * i + 1 : i + half;
        const double c = a.cos.f32()[position * half + i];
        const double s = a.sin.f32()[position * half + i];
        const double u = x[first];
        const double v = x[second];
        y[first] = static_cast<float>(u * c - v * s);
        y[second] = static_cast<float>(v * c + u * s);
      }
    }
  }
}

void ReferenceKernels::SwiGlu(const SwiGluArgs& a, const Stream&) const {
  for (int64_t i = 0; i < a.y.num_elements(); ++i) {
    a.y.f32()[i] = static_cast<float>(Silu(a.gate.f32()[i]) * a.up.f32()[i]);
  }
}

}  // namespace reference
}  // namespace choir
