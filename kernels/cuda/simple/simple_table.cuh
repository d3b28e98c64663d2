// The table of the simple kernels for one runner: GpuRunner in the module, an emulated one in
// tests.
#pragma once

#include "kernels/cuda/kernel_table.h"
#include "kernels/cuda/simple/attention.cuh"
#include "kernels/cuda/simple/elementwise.cuh"
#include "kernels/cuda/simple/experts.cuh"
#include "kernels/cuda/simple/gate.cuh"
#include "kernels/cuda/simple/grouped_gemm.cuh"
#include "kernels/cuda/simple/linear.cuh"
#include "kernels/cuda/simple/permute.cuh"
#include "kernels/cuda/simple/sample.cuh"
#include "kernels/cuda/simple/slots.cuh"

namespace choir::cuda {

// One part of the table each, so that the module compiles them in files of their own.
template <class Runner>
void FillRows(KernelTable* t) {
  using S = const KernelStream&;
  t->embedding = [](const EmbeddingArgs& a, S s) { Embedding(a, Runner(s)); };
  t->rms_norm = [](const RmsNormArgs& a, S s) { RmsNorm(a, Runner(s)); };
  t->rope = [](const RopeArgs& a, S s) { Rope(a, Runner(s)); };
  t->swi_glu = [](const SwiGluArgs& a, S s) { SwiGlu(a, Runner(s)); };
  t->store_kv = [](const StoreKvArgs& a, S s) { StoreKv(a, Runner(s)); };
  t->store_latent = [](const StoreLatentArgs& a, S s) { StoreLatent(a, Runner(s)); };
  t->combine = [](const CombineArgs& a, S s) { Combine(a, Runner(s)); };
  t->permute = [](const PermuteArgs& a, S s) { Permute(a, Runner(s)); };
  t->unpermute = [](const UnpermuteArgs& a, S s) { Unpermute(a, Runner(s)); };
  t->place_choices = [](const PlaceChoicesArgs& a, S s) { PlaceChoices(a, Runner(s)); };
  t->gather_rows = [](const GatherRowsArgs& a, S s) { GatherRows(a, Runner(s)); };
  t->quantize_f8 = [](const QuantizeF8Args& a, S s) { QuantizeF8(a, Runner(s)); };
  t->dequantize = [](const DequantizeArgs& a, S s) { Dequantize(a, Runner(s)); };
}

template <class Runner>
void FillProducts(KernelTable* t) {
  using S = const KernelStream&;
  t->order_of_rows = [](DType, int64_t, Compute) { return RowOrder::kNone; };
  t->linear = [](const LinearArgs& a, S s) { Linear(a, Runner(s)); };
  t->merged_linear = [](const MergedLinearArgs& a, S s) {
    for (const LinearArgs& part : a.parts) Linear(part, Runner(s));
  };
  t->head_project = [](const HeadProjectArgs& a, S s) { HeadProject(a, Runner(s)); };
  t->expert_ffn = [](const ExpertFfnArgs& a, S s) { ExpertFfn(a, Runner(s)); };
  t->grouped_gemm = [](const GroupedGemmArgs& a, S s) { GroupedGemm(a, Runner(s)); };
}

template <class Runner>
void FillChoices(KernelTable* t) {
  using S = const KernelStream&;
  t->paged_attention = [](const PagedAttentionArgs& a, S s) { PagedAttention(a, Runner(s)); };
  t->mla_attention = [](const MlaAttentionArgs& a, S s) { MlaAttention(a, Runner(s)); };
  t->gate_top_k = [](const GateTopKArgs& a, S s) { GateTopK(a, Runner(s)); };
  t->sample = [](const SampleArgs& a, S s) { Sample(a, Runner(s)); };
}

}  // namespace choir::cuda
