#include "worker/model/step_inputs.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr size_t kAlign = 16;
constexpr int64_t kPieces = 9;                            // each aligned by itself
constexpr int64_t kTablesMax = int64_t{4} * 1024 * 1024;  // entries: 16 MiB of each memory

constexpr size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

int64_t BlocksOf(const AttentionSequence& s, int64_t block_tokens) {
  return (s.first_position + s.row_count + block_tokens - 1) / block_tokens;
}

int64_t BlocksOf(std::span<const AttentionSequence> sequences, int64_t block_tokens) {
  int64_t blocks = 0;
  for (const AttentionSequence& s : sequences) blocks += BlocksOf(s, block_tokens);
  return blocks;
}

int64_t BlockTokensOf(const ModelBatch& batch) {
  return batch.sequences.empty() ? 1 : batch.kv[0].k.block_tokens();
}

// Those of the rows before `cut`, and those behind it, counted from there.
void CutSequences(std::span<const AttentionSequence> sequences, int32_t cut,
                  std::array<std::vector<AttentionSequence>, 2>* parts) {
  for (std::vector<AttentionSequence>& part : *parts) part.clear();
  for (AttentionSequence s : sequences) {
    const int32_t before = std::clamp(cut - s.row_begin, 0, s.row_count);
    if (before > 0) {
      AttentionSequence& first = (*parts)[0].emplace_back(s);
      first.row_count = before;
    }
    if (before == s.row_count) continue;
    s.row_begin += before - cut;
    s.row_count -= before;
    s.first_position += before;
    (*parts)[1].push_back(s);
  }
}

TensorView IdsAt(const int32_t* at, int64_t count) {
  return TensorView(static_cast<const void*>(at), DType::kI32, {count});
}

template <class T>
void Fill(std::span<const T> values, int64_t count, T padding, T* to) {
  T* const end = std::copy(values.begin(), values.end(), to);
  std::fill(end, to + count, padding);
}

}  // namespace

StatusOr<StepInputs> StepInputs::Make(Device* device, const ModelLimits& limits) {
  StepInputs inputs;
  inputs.on_host_ = device->ReadsHostMemory();
  if (inputs.on_host_) return inputs;
  const int64_t blocks_each = limits.positions_max / std::max<int64_t>(limits.block_tokens, 1) + 1;
  inputs.tables_max_ = std::min(limits.step_tokens * blocks_each, kTablesMax);
  const auto rows = static_cast<size_t>(limits.step_tokens);
  const size_t bytes = rows * (sizeof(AttentionSequence) + sizeof(int64_t) + 2 * sizeof(int32_t)) +
                       static_cast<size_t>(limits.logit_rows_max) * sizeof(int32_t) +
                       static_cast<size_t>(inputs.tables_max_) * sizeof(int32_t) +
                       static_cast<size_t>(kPieces) * kAlign;
  CHOIR_ASSIGN_OR_RETURN(inputs.memory_, StagedBuffer::Make(device, bytes));
  return inputs;
}

template <class T>
T* StepInputs::Take(int64_t count) {
  auto* at = reinterpret_cast<T*>(memory_.host() + used_);
  used_ += Aligned(static_cast<size_t>(count) * sizeof(T));
  return at;
}

template <class T>
const T* StepInputs::OnDevice(const T* host) const {
  const auto* at = reinterpret_cast<const std::byte*>(host);
  return reinterpret_cast<const T*>(memory_.device() + (at - memory_.host()));
}

bool StepInputs::CanPad(const ModelBatch& batch) const {
  return BlocksOf(batch.sequences, BlockTokensOf(batch)) <= tables_max_;
}

StepViews StepInputs::Stage(const ModelBatch& batch) {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const auto logit_rows = static_cast<int64_t>(batch.logit_rows.size());
  if (!on_host_) {
    return Pack(batch, {rows, static_cast<int64_t>(batch.sequences.size()), logit_rows});
  }
  StepViews views;
  views.rows = rows;
  views.tokens = IdsAt(batch.tokens.data(), rows);
  views.positions = IdsAt(batch.positions.data(), rows);
  views.logit_rows = IdsAt(batch.logit_rows.data(), logit_rows);
  views.slots = batch.slots;
  views.sequences = batch.sequences;
  return views;
}

StepViews StepInputs::StagePadded(const ModelBatch& batch, int64_t rows, int64_t logit_rows) {
  CHOIR_CHECK(!on_host_ && CanPad(batch));
  const auto real = static_cast<int64_t>(batch.tokens.size());
  CHOIR_CHECK(real <= rows && static_cast<int64_t>(batch.sequences.size()) <= rows);
  CHOIR_CHECK(static_cast<int64_t>(batch.logit_rows.size()) <= logit_rows);
  return Pack(batch, {rows, rows, logit_rows});
}

MicroBatchViews StepInputs::StageMicroBatches(const ModelBatch& batch) {
  CHOIR_CHECK(!on_host_);
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const int64_t cut = (rows + 1) / 2;
  CutSequences(batch.sequences, static_cast<int32_t>(cut), &cut_);
  MicroBatchViews views;
  StepViews& whole = views.whole;
  whole = PackRows(batch, {rows, 0, static_cast<int64_t>(batch.logit_rows.size())});
  whole.num_rows = nullptr;
  for (size_t p = 0; p < views.parts.size(); ++p) {
    const int64_t first = p == 0 ? 0 : cut, count = p == 0 ? cut : rows - cut;
    StepViews& part = views.parts[p];
    part.rows = count;
    part.tokens = whole.tokens.Rows(first, count);
    part.positions = whole.positions.Rows(first, count);
    part.logit_rows = whole.logit_rows.Rows(0, 0);
    part.slots = {whole.slots.host + first, static_cast<size_t>(count), whole.slots.device + first};
    part.sequences = PackSequences(cut_[p], BlockTokensOf(batch), std::ssize(cut_[p]));
  }
  Upload(whole);
  return views;
}

// Tables come last: what lies before them has one place for the same sizes.
StepViews StepInputs::Pack(const ModelBatch& batch, const Sizes& sizes) {
  StepViews views = PackRows(batch, sizes);
  views.sequences = PackSequences(batch.sequences, BlockTokensOf(batch), sizes.sequences);
  Upload(views);
  return views;
}

StepViews StepInputs::PackRows(const ModelBatch& batch, const Sizes& sizes) {
  used_ = 0;
  tables_used_ = 0;
  auto* num_rows = Take<int32_t>(1);
  *num_rows = static_cast<int32_t>(batch.tokens.size());
  auto* tokens = Take<int32_t>(sizes.rows);
  auto* positions = Take<int32_t>(sizes.rows);
  auto* slots = Take<int64_t>(sizes.rows);
  auto* logit_rows = Take<int32_t>(sizes.logit_rows);
  Fill(batch.tokens, sizes.rows, 0, tokens);
  Fill(batch.positions, sizes.rows, 0, positions);
  Fill(batch.slots, sizes.rows, int64_t{-1}, slots);
  Fill(batch.logit_rows, sizes.logit_rows, 0, logit_rows);
  StepViews views;
  views.rows = sizes.rows;
  views.tokens = IdsAt(OnDevice(tokens), sizes.rows);
  views.positions = IdsAt(OnDevice(positions), sizes.rows);
  views.logit_rows = IdsAt(OnDevice(logit_rows), sizes.logit_rows);
  views.slots = {slots, static_cast<size_t>(sizes.rows), OnDevice(slots)};
  views.num_rows = OnDevice(num_rows);
  return views;
}

void StepInputs::Upload(const StepViews& views) {
  CHOIR_CHECK(used_ <= memory_.bytes());
  if (views.rows > 0) memory_.Upload(0, used_);
}

Staged<AttentionSequence> StepInputs::PackSequences(std::span<const AttentionSequence> from,
                                                    int64_t block_tokens, int64_t count) {
  const int64_t blocks = BlocksOf(from, block_tokens);
  if (blocks > tables_max_ - tables_used_) return from;
  tables_used_ += blocks;
  auto* const sequences = Take<AttentionSequence>(count);
  auto* table = Take<int32_t>(blocks);
  AttentionSequence* to = sequences;
  for (const AttentionSequence& s : from) {
    *to = s;
    to++->block_table = OnDevice(table);
    table = std::copy_n(s.block_table, BlocksOf(s, block_tokens), table);
  }
  // Those that pad come behind all rows, of which there are no more than sequences then.
  std::fill(to, sequences + count, AttentionSequence{.row_begin = static_cast<int32_t>(count)});
  const bool padded = from.size() < static_cast<size_t>(count);
  return {padded ? nullptr : from.data(), static_cast<size_t>(count), OnDevice(sequences)};
}

}  // namespace choir
