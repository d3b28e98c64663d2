// The ops as plain functions: what the CUDA module hands over its C border, and what the emulation
// of the tests hands over as well. Free of CUDA and of abseil.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/ops/attention.h"
#include "kernels/ops/elementwise.h"
#include "kernels/ops/grouped_gemm.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/moe.h"
#include "kernels/ops/permute.h"
#include "kernels/ops/sample.h"
#include "kernels/ops/slots.h"

namespace choir::cuda {

// What an op runs on: it only enqueues. Tensors lie where the device can read them; spans in args
// are host memory and free again on return.
struct KernelStream {
  void* native = nullptr;          // cudaStream_t
  std::span<std::byte> workspace;  // device memory, 256-byte aligned
};

// Every pointer is set. Errors of the device are sticky and found by polling it.
struct KernelTable {
  const char* name = nullptr;  // "cuda-simple": part of the numerics id

  RowOrder (*order_of_rows)(DType weights, int64_t width, Compute compute) = nullptr;
  void (*embedding)(const EmbeddingArgs&, const KernelStream&) = nullptr;
  void (*linear)(const LinearArgs&, const KernelStream&) = nullptr;
  void (*merged_linear)(const MergedLinearArgs&, const KernelStream&) = nullptr;
  void (*head_project)(const HeadProjectArgs&, const KernelStream&) = nullptr;
  void (*rms_norm)(const RmsNormArgs&, const KernelStream&) = nullptr;
  void (*rope)(const RopeArgs&, const KernelStream&) = nullptr;
  void (*swi_glu)(const SwiGluArgs&, const KernelStream&) = nullptr;
  void (*store_kv)(const StoreKvArgs&, const KernelStream&) = nullptr;
  void (*store_latent)(const StoreLatentArgs&, const KernelStream&) = nullptr;
  void (*paged_attention)(const PagedAttentionArgs&, const KernelStream&) = nullptr;
  void (*mla_attention)(const MlaAttentionArgs&, const KernelStream&) = nullptr;
  void (*gate_top_k)(const GateTopKArgs&, const KernelStream&) = nullptr;
  void (*expert_ffn)(const ExpertFfnArgs&, const KernelStream&) = nullptr;
  void (*combine)(const CombineArgs&, const KernelStream&) = nullptr;

  // Not on the menu of KernelSet: what the GPU path has besides.
  void (*permute)(const PermuteArgs&, const KernelStream&) = nullptr;
  void (*unpermute)(const UnpermuteArgs&, const KernelStream&) = nullptr;
  void (*place_choices)(const PlaceChoicesArgs&, const KernelStream&) = nullptr;
  void (*gather_rows)(const GatherRowsArgs&, const KernelStream&) = nullptr;
  void (*grouped_gemm)(const GroupedGemmArgs&, const KernelStream&) = nullptr;
  void (*quantize_f8)(const QuantizeF8Args&, const KernelStream&) = nullptr;
  void (*dequantize)(const DequantizeArgs&, const KernelStream&) = nullptr;
  void (*sample)(const SampleArgs&, const KernelStream&) = nullptr;
};

}  // namespace choir::cuda
