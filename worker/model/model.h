// Model: one family's layers wired over KernelSet, KV pool and ExpertExchange. Weights are
// read-only after load and may be shared by the ranks of a process. One Model object per rank; its
// owner thread calls Forward. All memory is allocated at Make from the limits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/tensor/tensor_view.h"
#include "kernels/kernels.h"
#include "worker/comm/expert_exchange.h"
#include "worker/device/device.h"
#include "worker/model/host_experts.h"
#include "worker/model/placed_experts.h"

namespace choir {

// What the KV manager has to keep for one layer, per token. Widths in elements; kinds beyond these
// come with their families (recurrent, compressed).
struct LayerKv {
  enum class Kind : uint8_t { kKeysValues, kLatent } kind = Kind::kKeysValues;
  int64_t k_width = 0;  // kKeysValues: kv_heads * head_dim; kLatent: lora + rope
  int64_t v_width = 0;  // kLatent: 0
  int64_t window = 0;   // > 0: only the last `window` tokens are ever read
};

struct KvLayout {
  DType dtype = DType::kF32;
  std::vector<LayerKv> layers;
  // A token's state has other bits when it was generated than when it was part of the prompt. False
  // where one form serves both, as in all families here (docs/decisions/0007).
  bool by_role = false;
  int64_t BytesPerToken() const {
    int64_t n = 0;
    for (const LayerKv& l : layers) n += l.k_width + l.v_width;
    return n * static_cast<int64_t>(SizeOf(dtype));
  }
};

// The pool as kernels see it; worker/kv owns the memory.
struct LayerKvView {
  KvView k;
  KvView v;  // empty for kLatent
};

// One step's rows of this rank. All sizes may be 0: a rank without own work still serves its
// experts.
struct ModelBatch {
  std::span<const int32_t> tokens;     // [T]
  std::span<const int32_t> positions;  // [T]
  std::span<const int64_t> slots;      // [T] where each token's KV goes
  std::span<const AttentionSequence> sequences;
  std::span<const int32_t> logit_rows;  // ascending rows whose logits are wanted
  // out: [logit_rows, vocab] f32, on the device; memory for ModelLimits::logit_rows_max rows.
  TensorView logits;
  std::span<const LayerKvView> kv;         // by layer; on the device
  const PlacedExperts* experts = nullptr;  // this rank's; null for a model without any
};

struct ModelLimits {
  int64_t step_tokens = 512;      // own rows in a step
  int64_t step_tokens_group = 0;  // rows of all ranks in a step (sizes what experts may receive)
  int32_t expert_slots = 0;       // experts of a layer that this rank may hold
  int64_t positions_max = 0;      // context length to serve
  int64_t logit_rows_max = 256;
  int64_t block_tokens = 32;  // of the pool: sizes what a step's block tables may take
  // The group is this rank alone, and no expert is the host's: on a device the rows of experts are
  // ordered there, without an exchange.
  bool alone = false;
  int num_ranks = 1;
  // On a device, in a group: of steps in which no rank has more rows the device plans which go to
  // which expert (layers/slot_experts.h); 0: none.
  int64_t slot_output_rows = 0;
  int64_t graph_rows_max = 0;  // of decode steps that run as graphs of the device; 0: none
  int num_threads = 1;         // of the streams' teams
};

// Rows that a rank's experts get at most in one layer. Every row of the group chooses top_k
// experts, none twice; in steps that the device plans there is a row for every choice of every
// rank.
inline int64_t ReceivedRowsMax(const ModelLimits& limits, int64_t top_k) {
  return std::max(limits.step_tokens_group * std::min<int64_t>(top_k, limits.expert_slots),
                  limits.num_ranks * limits.slot_output_rows * top_k);
}

struct ModelInfo {
  std::string family;  // "deepseek_v3"
  int64_t vocab = 0;
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t context_length = 0;  // max_position_embeddings
  int32_t num_experts = 0;     // 0: dense
  int32_t top_k = 0;
  int32_t expert_layers = 0;        // layers that have experts
  int64_t columns_max = 0;          // widest K of any Linear: KernelLimits::columns_max
  int32_t heads_max = 0;            // KernelLimits::heads_max
  int64_t weight_bytes = 0;         // held in memory
  int64_t active_weight_bytes = 0;  // read per token at batch 1
  int64_t active_flops = 0;         // per token
  int64_t expert_bytes = 0;         // one routed expert's weights in all layers together
  std::vector<int32_t> eos_ids;     // generation_config.json wins over config.json
  std::string weights_digest;       // see numerics_id.h
  std::string kernels;              // NumericsParts::kernel_set
  bool host_experts = false;        // the host computes experts that the device leaves to it
};

// Weights of one directory, checked and ready: loaded once per process, shared by its ranks.
class LoadedModel {
 public:
  virtual ~LoadedModel() = default;
  virtual const ModelInfo& info() const = 0;
  virtual KvLayout kv_layout() const = 0;
  virtual Compute compute() const = 0;
  // Digest of the weights' manifest + dtype + kernel set name + numerics version (contract §10).
  virtual const std::string& numerics_id() const = 0;
  // Where the weights are, and with them all that is computed with them.
  virtual Device& device() const { return HostDevice(); }
  // The experts of `rank` where `layers` says so (by layer with experts). What `before` has serves
  // on, and what was loaded at the start; others are read from the files and checked. Any thread.
  // Cancelled: `stop` was asked for. Other errors are LoadModel's. On a device with memory of its
  // own no more fit than LoadOptions::redundant_experts has made room for, and what was loaded at
  // the start may have to be read again: nobody holds what an epoch does not begin with.
  virtual StatusOr<std::shared_ptr<const PlacedExperts>> PlaceExperts(
      std::vector<ExpertPlacement> layers, int32_t rank, const PlacedExperts* before,
      const std::stop_token& stop) const;
};

// One copy of every expert, in ranges: what ranks load at the start. By layer with experts.
std::vector<ExpertPlacement> FirstPlacement(const ModelInfo& info, int32_t num_ranks);

// The bytes of the device that are wanted besides the weights. `sizes` is the model before its
// weights are read: what it is and how large; its device measures.
using BytesBesideWeights =
    std::function<StatusOr<size_t>(std::shared_ptr<const LoadedModel> sizes)>;

// Whether `sizes`, the model before its weights are read, is one to load.
using CheckSizes = std::function<Status(const LoadedModel& sizes)>;

struct LoadOptions {
  std::string model_dir;
  std::string dtype = "auto";  // auto: the file's; f32; bf16
  int rank = 0;                // only this rank's experts need be touched
  int num_ranks = 1;
  std::string weights_digest;  // what ModelInfo's has to be, or nothing is loaded; "": anything
  std::string cache_dir;       // where that digest is cached; "": nowhere
  // bytes done of all; called now and then from the loading thread
  std::function<void(int64_t done, int64_t total)> progress;
  // Rows go to experts as f8 with a scale for 128 columns, which gives other bits and another
  // numerics id. Of models whose experts are f8, on devices.
  bool f8_rows = false;
  Device* device = &HostDevice();     // outlives the model
  CheckSizes check;                   // may be empty; an error is LoadModel's
  BytesBesideWeights beside_weights;  // needed where the device does not read the host's memory
  int32_t redundant_experts = 0;      // of a layer that may come later; takes room on the device
  HostExpertOptions host_experts;     // only where the device does not read the host's memory
};

// Every offset, size, dtype and shape is checked against file and config before use. Errors are
// InvalidArgument (NotFound for a missing file): "FILE: field: what is wrong; remedy". A device
// with too little memory is refused (ResourceExhausted) before any weight is read.
StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(const LoadOptions& options,
                                                       const KernelSet& kernels);

// Rows that the experts of this rank computed since the model was made.
struct ExpertCounts {
  std::vector<int32_t> layers;  // with experts, by their index in the model
  int32_t num_experts = 0;
  std::vector<uint64_t> rows;  // [layers, num_experts]
};

// Graphs of steps since the model was made.
struct GraphStats {
  uint64_t captures = 0;  // steps that were recorded
  uint64_t replays = 0;   // steps that ran as a graph
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const LoadedModel& loaded() const = 0;
  // REQUIRES: batch within the limits. An error comes from the exchange (the epoch is lost) or the
  // device (Device::status: the process is). Enqueues; the batch's values stay as they are until
  // Device::Wait.
  virtual Status Forward(const ModelBatch& batch, ExpertExchange* exchange,
                         const Stream& stream) = 0;
  // For metrics; both after Device::Wait.
  virtual const ExpertCounts& expert_counts() const = 0;
  virtual GraphStats graphs() const { return {}; }
};

// On the device of `loaded`.
StatusOr<std::unique_ptr<Model>> MakeModel(std::shared_ptr<const LoadedModel> loaded,
                                           const KernelSet* kernels, const ModelLimits& limits);

}  // namespace choir
