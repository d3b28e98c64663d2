// The oracle: every op as its formula reads, one element at a time, sums in double. Ignores the
// stream. Compute::kBF16 here: x rounded to bf16, products and sums in double.
#pragma once

#include <string>

#include "common/tensor/small_floats.h"
#include "kernels/kernels.h"

namespace choir::reference {

class ReferenceKernels final : public KernelSet {
 public:
  std::string Name() const override { return "reference"; }
  size_t WorkspaceBytes(const KernelLimits&, int) const override { return 0; }

  void Embedding(const EmbeddingArgs&, const Stream&) const override;
  void Linear(const LinearArgs&, const Stream&) const override;
  void HeadProject(const HeadProjectArgs&, const Stream&) const override;
  void RmsNorm(const RmsNormArgs&, const Stream&) const override;
  void Rope(const RopeArgs&, const Stream&) const override;
  void SwiGlu(const SwiGluArgs&, const Stream&) const override;
  void StoreKv(const StoreKvArgs&, const Stream&) const override;
  void PagedAttention(const PagedAttentionArgs&, const Stream&) const override;
  void MlaAttention(const MlaAttentionArgs&, const Stream&) const override;
  void GateTopK(const GateTopKArgs&, const Stream&) const override;
  void ExpertFfn(const ExpertFfnArgs&, const Stream&) const override;
  void Combine(const CombineArgs&, const Stream&) const override;
};

// Element i of an f32, bf16 or f16 tensor.
inline double At(const TensorView& t, int64_t i) {
  if (t.dtype() == DType::kBF16) return static_cast<double>(ToF32(t.b16()[i]));
  if (t.dtype() == DType::kF16) return static_cast<double>(F16ToF32(t.data<uint16_t>()[i]));
  return static_cast<double>(t.f32()[i]);
}

// Element (row, column) of a matrix, times its block's scale where the format has them.
inline double WeightAt(const TensorView& w, const TensorView& scale, int64_t row, int64_t column) {
  const int64_t i = row * w.dim(1) + column;
  if (w.dtype() == DType::kF8E4M3) {
    const int64_t block = row / kF8Block * scale.dim(1) + column / kF8Block;
    return static_cast<double>(F8ToF32(w.data<uint8_t>()[i])) * scale.f32()[block];
  }
  if (w.dtype() == DType::kF4E2M1) {
    const int byte = static_cast<const uint8_t*>(w.raw())[i / 2];
    const auto code = static_cast<uint8_t>(i % 2 == 0 ? byte & 15 : byte >> 4);
    const uint8_t s = scale.data<uint8_t>()[row * scale.dim(1) + column / kF4Block];
    return static_cast<double>(F4ToF32(code)) * ExponentToF32(s);
  }
  return At(w, i);
}

// x as the product sees it.
inline double Operand(double x, Compute compute) {
  return compute == Compute::kBF16 ? static_cast<double>(ToF32(ToBF16(static_cast<float>(x)))) : x;
}

double Silu(double x);

}  // namespace choir::reference
