// StepInputs: what the kernels of a step read besides weights and KV, the same for all layers:
// tokens, positions, slots, sequences with their block tables, rows whose logits are wanted. On a
// device they go there in one piece, by one copy from pinned memory; where the device reads the
// host's memory they stay where they are. Owned by the model; owner thread only.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "worker/device/device.h"
#include "worker/model/model.h"

namespace choir {

// One step's, valid until the next Stage.
struct StepViews {
  int64_t rows = 0;                          // of the step, with those that only pad
  TensorView tokens, positions, logit_rows;  // i32, on the device
  Staged<int64_t> slots;
  Staged<AttentionSequence> sequences;
  const int32_t* num_rows = nullptr;  // on the device: rows that do not pad; null: all
};

// A step's rows as two micro-batches: the first has half of them, rounded up, of which a sequence
// may be cut in two. Rows of logits are the whole step's, which has no sequences.
struct MicroBatchViews {
  StepViews whole;
  std::array<StepViews, 2> parts;
};

class StepInputs {
 public:
  StepInputs() = default;
  static StatusOr<StepInputs> Make(Device* device, const ModelLimits& limits);

  // As they are. Of sequences whose block tables are too long together the device has none: ops
  // bring them there part by part.
  StepViews Stage(const ModelBatch& batch);
  // REQUIRES: a device.
  MicroBatchViews StageMicroBatches(const ModelBatch& batch);
  // With padding up to so many rows, sequences and rows of logits: token and position 0, no slot,
  // no sequence, row 0. Where all of it lies depends on these two numbers only, and only the device
  // has the sequences.
  // REQUIRES: a device, within the limits; CanPad(batch).
  StepViews StagePadded(const ModelBatch& batch, int64_t rows, int64_t logit_rows);
  bool CanPad(const ModelBatch& batch) const;  // the block tables fit

 private:
  struct Sizes {
    int64_t rows = 0, sequences = 0, logit_rows = 0;
  };
  StepViews Pack(const ModelBatch& batch, const Sizes& sizes);
  StepViews PackRows(const ModelBatch& batch, const Sizes& sizes);
  Staged<AttentionSequence> PackSequences(std::span<const AttentionSequence> from,
                                          int64_t block_tokens, int64_t count);
  void Upload(const StepViews& views);
  template <class T>
  T* Take(int64_t count);
  template <class T>
  const T* OnDevice(const T* host) const;

  bool on_host_ = true;
  StagedBuffer memory_;
  size_t used_ = 0;
  int64_t tables_max_ = 0;                             // entries of block tables of a step
  int64_t tables_used_ = 0;                            // of them
  std::array<std::vector<AttentionSequence>, 2> cut_;  // of micro-batches
};

}  // namespace choir
