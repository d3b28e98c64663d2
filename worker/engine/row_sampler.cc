#include "worker/engine/row_sampler.h"

#include <utility>

namespace choir {
namespace {

bool NeedsHost(const Sequence& sequence) {
  const SamplingParams& p = sequence.request.sampling;
  return p.num_logprobs >= 0 || !p.logit_bias.empty() || HasPenalties(p);
}

SampleRow ParametersOf(const Sequence& sequence) {
  const SamplingParams& p = sequence.request.sampling;
  return {.temperature = p.temperature,
          .top_p = p.top_p,
          .min_p = p.min_p,
          .seed = p.seed,
          .position = static_cast<uint64_t>(sequence.num_generated()),
          .choice = p.choice,
          .top_k = p.top_k};
}

}  // namespace

StatusOr<std::unique_ptr<RowSampler>> RowSampler::Make(Device* device, const KernelSet* kernels,
                                                       int64_t vocab, int64_t rows_max) {
  std::unique_ptr<RowSampler> sampler(new RowSampler);
  sampler->device_ = device;
  sampler->kernels_ = device->ReadsHostMemory() ? nullptr : kernels;
  sampler->vocab_ = vocab;
  const auto rows = static_cast<size_t>(rows_max);
  CHOIR_ASSIGN_OR_RETURN(
      sampler->logits_,
      StagedBuffer::Make(device, rows * static_cast<size_t>(vocab) * sizeof(float)));
  CHOIR_ASSIGN_OR_RETURN(sampler->ids_, StagedBuffer::Make(device, rows * sizeof(int32_t)));
  CHOIR_ASSIGN_OR_RETURN(sampler->parameters_,
                         StagedBuffer::Make(device, rows * sizeof(SampleRow)));
  return sampler;
}

void RowSampler::Use(ThreadTeam* team) {
  team_ = team;
  for (int t = 0; t < team->size(); ++t) samplers_.emplace_back(vocab_);
}

TensorView RowSampler::Logits(int64_t rows) const {
  return TensorView(static_cast<void*>(logits_.device()), DType::kF32, {rows, vocab_});
}

Status RowSampler::Sample(std::span<Sequence* const> rows, const Stream& stream,
                          std::vector<SampledToken>* tokens) {
  tokens->resize(rows.size());
  host_rows_.clear();
  for (size_t row = 0; row < rows.size(); ++row) {
    if (NeedsHost(*rows[row])) host_rows_.push_back(row);
  }
  const bool on_device = host_rows_.size() < rows.size() && SampleOnDevice(rows, stream);
  if (!on_device) {
    host_rows_.resize(rows.size());
    for (size_t row = 0; row < rows.size(); ++row) host_rows_[row] = row;
  }
  const size_t row_bytes = static_cast<size_t>(vocab_) * sizeof(float);
  for (const size_t row : host_rows_) logits_.Download(row * row_bytes, row_bytes);
  CHOIR_RETURN_IF_ERROR(device_->Wait());
  if (on_device) {
    const auto* ids = reinterpret_cast<const int32_t*>(ids_.host());
    for (size_t row = 0; row < rows.size(); ++row) (*tokens)[row] = {.id = ids[row], .logprob = {}};
  }
  SampleOnHost(rows, tokens);
  return {};
}

// Of all rows: what the host has to do again is left out afterwards.
bool RowSampler::SampleOnDevice(std::span<Sequence* const> rows, const Stream& stream) {
  if (kernels_ == nullptr) return false;
  auto* parameters = reinterpret_cast<SampleRow*>(parameters_.host());
  CHOIR_CHECK(rows.size() * sizeof(SampleRow) <= parameters_.bytes());
  for (size_t row = 0; row < rows.size(); ++row) parameters[row] = ParametersOf(*rows[row]);
  parameters_.Upload(0, rows.size() * sizeof(SampleRow));
  const Staged<SampleRow> staged(parameters, rows.size(),
                                 reinterpret_cast<const SampleRow*>(parameters_.device()));
  const auto count = static_cast<int64_t>(rows.size());
  const TensorView ids(static_cast<void*>(ids_.device()), DType::kI32, {count});
  if (!kernels_->TrySample({.logits = Logits(count), .rows = staged, .ids = ids}, stream)) {
    return false;
  }
  ids_.Download(0, ids.num_bytes());
  return true;
}

void RowSampler::SampleOnHost(std::span<Sequence* const> rows, std::vector<SampledToken>* tokens) {
  const auto vocab = static_cast<size_t>(vocab_);
  const auto* logits = reinterpret_cast<const float*>(logits_.host());
  const auto sample = [&](size_t row, Sampler* sampler) {
    const Sequence& sequence = *rows[row];
    (*tokens)[row] =
        sampler->Sample({logits + row * vocab, vocab}, sequence.request.sampling, &sequence.counts,
                        static_cast<uint64_t>(sequence.num_generated()));
  };
  if (host_rows_.size() < 2 || team_->size() == 1) {
    for (const size_t row : host_rows_) sample(row, &samplers_[0]);
    return;
  }
  const size_t stride = samplers_.size();
  team_->Run([&](int thread) {
    const auto t = static_cast<size_t>(thread);
    for (size_t i = t; i < host_rows_.size(); i += stride) sample(host_rows_[i], &samplers_[t]);
  });
}

}  // namespace choir
