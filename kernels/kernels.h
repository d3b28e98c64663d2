// KernelSet: the whole menu of math, one virtual per op. Implementations: reference (slow, obvious,
// double accumulation: the oracle of the contract suite), cpu (portable, AVX2, AVX-512, AVX-512
// BF16, chosen by CPUID), cuda (a module). Stateless; any thread with its own Stream may call.
// Shapes and dtypes are the caller's duty (CHOIR_CHECK). Exactness: for one kernel set, every
// output element is a function of its own inputs alone, whatever else is in the batch and however
// many threads run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/status.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/grouped_gemm.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/moe.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/sample.h"
#include "kernels/ops/slots.h"
#include "kernels/stream.h"

namespace choir {

// The largest shapes a worker will ask for; sizes the workspace.
struct KernelLimits {
  int64_t rows_max = 0;       // most rows of any op (step tokens; received expert rows)
  int64_t columns_max = 0;    // widest K of any Linear
  int64_t positions_max = 0;  // longest sequence
  int64_t heads_max = 0;
};

class KernelSet {
 public:
  virtual ~KernelSet() = default;

  // "cpu-avx512bf16": part of the numerics id; two sets with one name give the same bits.
  virtual std::string Name() const = 0;
  virtual size_t WorkspaceBytes(const KernelLimits& limits, int num_threads) const = 0;

  // In which order products with weights of K = width take rows that were rounded for them; hangs
  // on nothing else. kNone: in none, and no op of this set is given room for such rows.
  virtual RowOrder OrderOfRows(DType /*weights*/, int64_t /*width*/, Compute) const {
    return RowOrder::kNone;
  }
  virtual void Embedding(const EmbeddingArgs&, const Stream&) const = 0;
  virtual void Linear(const LinearArgs&, const Stream&) const = 0;
  virtual void MergedLinear(const MergedLinearArgs& a, const Stream& s) const {
    for (const LinearArgs& part : a.parts) Linear(part, s);
  }
  virtual void HeadProject(const HeadProjectArgs&, const Stream&) const = 0;
  virtual void RmsNorm(const RmsNormArgs&, const Stream&) const = 0;
  virtual void Rope(const RopeArgs&, const Stream&) const = 0;
  virtual void SwiGlu(const SwiGluArgs&, const Stream&) const = 0;
  virtual void StoreKv(const StoreKvArgs&, const Stream&) const = 0;
  virtual void StoreLatent(const StoreLatentArgs& a, const Stream& s) const {
    RmsNorm(a.Norm(), s);
    Rope(a.Rope(), s);
    StoreKv(a.Store(), s);
  }
  virtual void PagedAttention(const PagedAttentionArgs&, const Stream&) const = 0;
  virtual void MlaAttention(const MlaAttentionArgs&, const Stream&) const = 0;
  virtual void GateTopK(const GateTopKArgs&, const Stream&) const = 0;
  virtual void ExpertFfn(const ExpertFfnArgs&, const Stream&) const = 0;
  virtual void Combine(const CombineArgs&, const Stream&) const = 0;
  // Rows of tokens to the order of their experts and back, for kernels whose memory the host does
  // not read; where it does, that is the exchange's work (worker/comm/expert_exchange.h).
  virtual void Permute(const PermuteArgs&, const Stream&) const { CHOIR_CHECK(false); }
  virtual void Unpermute(const UnpermuteArgs&, const Stream&) const { CHOIR_CHECK(false); }
  virtual void PlaceChoices(const PlaceChoicesArgs&, const Stream&) const { CHOIR_CHECK(false); }
  virtual void GatherRows(const GatherRowsArgs&, const Stream&) const { CHOIR_CHECK(false); }
  // Rows as f8 and back, of kernels whose memory the host does not read.
  virtual void QuantizeF8(const QuantizeF8Args&, const Stream&) const { CHOIR_CHECK(false); }
  virtual void Dequantize(const DequantizeArgs&, const Stream&) const { CHOIR_CHECK(false); }
  // False, and nothing was done: sampling is the host's, which sees the logits anyway.
  virtual bool TrySample(const SampleArgs&, const Stream&) const { return false; }
};

std::unique_ptr<KernelSet> MakeReferenceKernels();

// `path`: "auto" (the best this CPU has) or one of CpuPaths(); an unknown or unsupported one is an
// error that names those that would work.
StatusOr<std::unique_ptr<KernelSet>> MakeCpuKernels(const std::string& path);
std::vector<std::string> CpuPaths();  // that this CPU supports, best first

}  // namespace choir
