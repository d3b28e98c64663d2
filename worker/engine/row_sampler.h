// RowSampler: from the logits of a step to its tokens, with the same bits wherever it is done. On
// the device where its kernels sample, but for rows that ask for what only the host has: penalties,
// biases, log probabilities (sampler.h). Those come to the host row by row, shared among the
// engine's team. Owns the memory of the logits; owner thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/runtime/thread_team.h"
#include "kernels/kernels.h"
#include "worker/device/device.h"
#include "worker/engine/sampler.h"
#include "worker/engine/sequence_table.h"

namespace choir {

class RowSampler {
 public:
  // `device` and `kernels` outlive it; the host samples where it reads
  // the device's memory, or where kernels is null.
  static StatusOr<std::unique_ptr<RowSampler>> Make(Device* device, const KernelSet* kernels,
                                                    int64_t vocab, int64_t rows_max);
  void Use(ThreadTeam* team);  // once, before Sample; `team` outlives it

  // Where a step's logits go. [rows, vocab] f32, device.
  TensorView Logits(int64_t rows) const;

  // Waits for the device. rows[i] is the sequence of row i of the logits. An error is the device's.
  Status Sample(std::span<Sequence* const> rows, const Stream& stream,
                std::vector<SampledToken>* tokens);

 private:
  RowSampler() = default;
  bool SampleOnDevice(std::span<Sequence* const> rows, const Stream& stream);
  void SampleOnHost(std::span<Sequence* const> rows, std::vector<SampledToken>* tokens);

  Device* device_ = nullptr;
  const KernelSet* kernels_ = nullptr;
  ThreadTeam* team_ = nullptr;
  int64_t vocab_ = 0;
  StagedBuffer logits_, ids_, parameters_;
  std::vector<Sampler> samplers_;  // one a thread of the team
  std::vector<size_t> host_rows_;  // that the host samples
};

}  // namespace choir
