// A KernelSet that adds up what is asked of it: how long its ops take at the least, and, when it is
// told to, how long each took. Forwards everything. One thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/device_table.h"
#include "kernels/kernels.h"
#include "tools/gpu/floor.h"

namespace choir::gpu {

class MeasuredKernels final : public KernelSet {
 public:
  // All outlive it. Times are taken on `device`'s streams.
  MeasuredKernels(const KernelSet* inner, const cuda::DeviceTable* device, const Limits& limits)
      : inner_(*inner), device_(*device), limits_(limits) {}
  ~MeasuredKernels() override;

  void Begin(bool with_times);  // of a step
  // After it, once the device has been waited for.
  struct Sum {
    double floor_us = 0, us = 0;  // us: 0 without times
    int64_t bytes = 0, flops = 0;
    int count = 0;
  };
  std::map<std::string, Sum> ByOp();  // "linear", "linear (head)": the product with the vocabulary

  void set_vocab(int64_t vocab) { vocab_ = vocab; }

  std::string Name() const override { return inner_.Name(); }
  size_t WorkspaceBytes(const KernelLimits& limits, int threads) const override {
    return inner_.WorkspaceBytes(limits, threads);
  }
  RowOrder OrderOfRows(DType weights, int64_t width, Compute compute) const override {
    return inner_.OrderOfRows(weights, width, compute);
  }
  void Embedding(const EmbeddingArgs&, const Stream&) const override;
  void Linear(const LinearArgs&, const Stream&) const override;
  void MergedLinear(const MergedLinearArgs&, const Stream&) const override;
  void HeadProject(const HeadProjectArgs&, const Stream&) const override;
  void RmsNorm(const RmsNormArgs&, const Stream&) const override;
  void Rope(const RopeArgs&, const Stream&) const override;
  void SwiGlu(const SwiGluArgs&, const Stream&) const override;
  void StoreKv(const StoreKvArgs&, const Stream&) const override;
  void StoreLatent(const StoreLatentArgs&, const Stream&) const override;
  void PagedAttention(const PagedAttentionArgs&, const Stream&) const override;
  void MlaAttention(const MlaAttentionArgs&, const Stream&) const override;
  void GateTopK(const GateTopKArgs&, const Stream&) const override;
  void ExpertFfn(const ExpertFfnArgs&, const Stream&) const override;
  void Combine(const CombineArgs&, const Stream&) const override;
  void Permute(const PermuteArgs&, const Stream&) const override;
  void Unpermute(const UnpermuteArgs&, const Stream&) const override;
  bool TrySample(const SampleArgs&, const Stream&) const override;

 private:
  struct Op {
    const char* name;
    Work work;
    void* begin = nullptr;  // events; null without times
    void* end = nullptr;
  };
  template <class Call>
  void Take(const char* name, const Work& work, const Stream& stream, const Call& call) const;
  void* Mark(const Stream& stream) const;
  void Forget();

  const KernelSet& inner_;
  const cuda::DeviceTable& device_;
  const Limits limits_;
  int64_t vocab_ = -1;
  bool with_times_ = false;
  mutable std::vector<Op> ops_;  // a kernel set is const to those who compute
};

}  // namespace choir::gpu
