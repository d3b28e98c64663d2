// The CPU kernel set: splits each op over the stream's team and calls the leaf functions of one
// instruction-set path (micro.h). Bits never depend on how the work is split.
#pragma once

#include <string>

#include "kernels/cpu/micro.h"
#include "kernels/kernels.h"

namespace choir::cpu {

class CpuKernels final : public KernelSet {
 public:
  explicit CpuKernels(const Micro& micro) : micro_(micro) {}

  std::string Name() const override { return std::string("cpu-") + micro_.name; }
  size_t WorkspaceBytes(const KernelLimits& limits, int num_threads) const override;

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

 private:
  const Micro& micro_;
};

}  // namespace choir::cpu
