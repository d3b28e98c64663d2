#include "kernels/cuda/table_kernels.h"

#include <algorithm>

namespace choir {
namespace {

using cuda::KernelTable;

cuda::KernelStream Of(const Stream& s) { return {.native = s.native, .workspace = s.workspace}; }

class TableKernels final : public KernelSet {
 public:
  TableKernels(const KernelTable& table, const std::string& chip)
      : t_(table), name_(chip.empty() ? table.name : table.name + ("-" + chip)) {}

  std::string Name() const override { return name_; }

  // What goes to the device ahead of a kernel (upload.cuh) where it is not there: a slot a row, or
  // a row and head; a sequence and its block table; the most experts a layer may have. And a list
  // of tiles, at most one a row. Or rows in bf16 (hopper/linear.cuh), or sums of parts of K
  // (tensor/f32_linear.cuh). And what attention computes of parts of long sequences before they are
  // one (tensor/attention.cuh).
  size_t WorkspaceBytes(const KernelLimits& limits, int) const override {
    constexpr int64_t kAlign = 256;
    constexpr int64_t kExpertBytes = sizeof(ExpertWeights);
    constexpr int64_t kRowBytes = 64;  // the widest: a row's sampling parameters
    const int64_t slots = limits.rows_max * std::max<int64_t>(kRowBytes, 8 * limits.heads_max);
    const int64_t tables = limits.positions_max * 4;
    const int64_t experts = kGateExpertsMax * kExpertBytes + limits.rows_max * 16;
    const int64_t products = std::max(RoundedBytes(limits), SumBytes(limits));
    return static_cast<size_t>(std::max({slots, tables, experts, products}) + PartBytes(limits) +
                               8 * kAlign);
  }

  RowOrder OrderOfRows(DType weights, int64_t width, Compute compute) const override {
    return t_.order_of_rows(weights, width, compute);
  }
  void Embedding(const EmbeddingArgs& a, const Stream& s) const override { t_.embedding(a, Of(s)); }
  void Linear(const LinearArgs& a, const Stream& s) const override { t_.linear(a, Of(s)); }
  void MergedLinear(const MergedLinearArgs& a, const Stream& s) const override {
    t_.merged_linear(a, Of(s));
  }
  void HeadProject(const HeadProjectArgs& a, const Stream& s) const override {
    t_.head_project(a, Of(s));
  }
  void RmsNorm(const RmsNormArgs& a, const Stream& s) const override { t_.rms_norm(a, Of(s)); }
  void Rope(const RopeArgs& a, const Stream& s) const override { t_.rope(a, Of(s)); }
  void SwiGlu(const SwiGluArgs& a, const Stream& s) const override { t_.swi_glu(a, Of(s)); }
  void StoreKv(const StoreKvArgs& a, const Stream& s) const override { t_.store_kv(a, Of(s)); }
  void StoreLatent(const StoreLatentArgs& a, const Stream& s) const override {
    t_.store_latent(a, Of(s));
  }
  void PagedAttention(const PagedAttentionArgs& a, const Stream& s) const override {
    t_.paged_attention(a, Of(s));
  }
  void MlaAttention(const MlaAttentionArgs& a, const Stream& s) const override {
    t_.mla_attention(a, Of(s));
  }
  void GateTopK(const GateTopKArgs& a, const Stream& s) const override { t_.gate_top_k(a, Of(s)); }
  void ExpertFfn(const ExpertFfnArgs& a, const Stream& s) const override {
    t_.expert_ffn(a, Of(s));
  }
  void Combine(const CombineArgs& a, const Stream& s) const override { t_.combine(a, Of(s)); }
  void Permute(const PermuteArgs& a, const Stream& s) const override { t_.permute(a, Of(s)); }
  void Unpermute(const UnpermuteArgs& a, const Stream& s) const override { t_.unpermute(a, Of(s)); }
  void PlaceChoices(const PlaceChoicesArgs& a, const Stream& s) const override {
    t_.place_choices(a, Of(s));
  }
  void GatherRows(const GatherRowsArgs& a, const Stream& s) const override {
    t_.gather_rows(a, Of(s));
  }
  void QuantizeF8(const QuantizeF8Args& a, const Stream& s) const override {
    t_.quantize_f8(a, Of(s));
  }
  void Dequantize(const DequantizeArgs& a, const Stream& s) const override {
    t_.dequantize(a, Of(s));
  }
  bool TrySample(const SampleArgs& a, const Stream& s) const override {
    t_.sample(a, Of(s));
    return true;
  }

 private:
  // Of rows that a product takes at once: with more it reads the weights again, which then no
  // longer shows.
  static int64_t RoundedBytes(const KernelLimits& limits) {
    constexpr int64_t kRows = 4096;
    return std::min(kRows, limits.rows_max) * limits.columns_max * 2;
  }
  // Of a router's 256 outputs for what decode steps have at the most. With less it is slower, not
  // wrong.
  static int64_t SumBytes(const KernelLimits& limits) {
    constexpr int64_t kRows = 512, kOutputs = 256, kColumns = 256;
    const int64_t parts = (limits.columns_max + kColumns - 1) / kColumns;
    return std::min(kRows, limits.rows_max) * kOutputs * parts * 4;
  }
  // Enough to keep a card of 132 multiprocessors busy with parts of 64 queries of 512 columns, or
  // for all parts there can be. With less, attention is slower, not wrong.
  static int64_t PartBytes(const KernelLimits& limits) {
    constexpr int64_t kQueryBytes = (512 + 2) * 4;
    constexpr int64_t kTileQueries = 64;
    constexpr int64_t kKeys = 512;  // of the smallest part
    const int64_t parts = (limits.positions_max + kKeys - 1) / kKeys;
    const int64_t queries = limits.rows_max * std::max(limits.heads_max, kTileQueries) * parts;
    return parts < 2 ? 0 : std::min<int64_t>(132 * kTileQueries, queries) * kQueryBytes;
  }

  const KernelTable& t_;
  const std::string name_;
};

}  // namespace

std::unique_ptr<KernelSet> MakeTableKernels(const cuda::KernelTable& table,
                                            const std::string& chip) {
  return std::make_unique<TableKernels>(table, chip);
}

}  // namespace choir
