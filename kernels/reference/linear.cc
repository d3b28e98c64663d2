#include "kernels/reference/reference_kernels.h"

namespace choir::reference {

void ReferenceKernels::Linear(const LinearArgs& a, const Stream&) const {
  const int64_t rows = a.x.dim(0);
  const int64_t outputs = a.w.dim(0);
  const int64_t width = a.w.dim(1);
  CHOIR_CHECK(a.x.dim(1) == width && a.y.dim(0) == rows && a.y.dim(1) == outputs);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t n = 0; n < outputs; ++n) {
      float& y = a.y.f32()[t * outputs + n];
      double sum = a.accumulate ? y : 0.0;
      if (!a.bias.empty()) sum += At(a.bias, n);
      for (int64_t k = 0; k < width; ++k) {
        sum += Operand(At(a.x, t * width + k), a.compute) * WeightAt(a.w, a.w_scale, n, k);
      }
      y = static_cast<float>(sum);
    }
  }
}

void ReferenceKernels::HeadProject(const HeadProjectArgs& a, const Stream&) const {
  const int64_t heads = a.x.dim(1);
  const int64_t from = a.x.dim(2);
  const int64_t to = a.y.dim(2);
  const int64_t head_stride = a.x_head_stride != 0 ? a.x_head_stride : from;
  const int64_t token_stride = a.x_token_stride != 0 ? a.x_token_stride : heads * from;
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t b = 0; b < to; ++b) {
        double sum = 0.0;
        for (int64_t i = 0; i < from; ++i) {
          const int64_t w = h * a.w_head_stride + (a.transpose ? b * from + i : i * to + b);
          const double x = a.x.f32()[t * token_stride + h * head_stride + i];
          sum += Operand(x, a.compute) * At(a.w, w);
        }
        a.y.f32()[(t * heads + h) * to + b] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace choir::reference
