// The oracle: every op as its formula reads, one element at a time, sums in double. Ignores the
// stream. Compute::kBF16 here: x rounded to bf16, products and sums in double.
#pragma once

#include <string>

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
  void Add(const AddArgs&, const Stream&) const override;
  void StoreKv(const StoreKvArgs&, const Stream&) const override;
  void PagedAttention(const PagedAttentionArgs&, const Stream&) const override;
  void MlaAttention(const MlaAttentionArgs&, const Stream&) const override;
  void GateTopK(const GateTopKArgs&, const Stream&) const override;
  void ExpertFfn(const ExpertFfnArgs&, const Stream&) const override;
  void Combine(const CombineArgs&, const Stream&) const override;
};

// Element i of an f32 or bf16 tensor.
inline double At(const TensorView& t, int64_t i) {
  return t.dtype() == DType::kBF16 ? static_cast<double>(ToF32(t.b16()[i]))
                                   : static_cast<double>(t.f32()[i]);
}

// x as the product sees it.
inline double Operand(double x, Compute compute) {
  return compute == Compute::kBF16 ? static_cast<double>(ToF32(ToBF16(static_cast<float>(x)))) : x;
}

double Silu(double x);

}  // namespace choir::reference
