// paged_attention (GQA) and mla_attention (absorbed), prefill and decode alike.
// Shapes   kernels/ops/attention.h: q [T,heads,d]; pools [blocks, block_tokens, width] f32 or bf16.
// Bound    bytes ≈ keys · width · size per row and head here, as heads that share keys read them
//          again: correct for every shape, not fast. Decode's floor is one read of the keys.
// Plan     a block a (row, head). Keys in chunks of 128 at absolute multiples of 128: a thread a
//          score; maximum and sum of the chunk over the block; then a thread a column of v, keys
//          ascending. Chunks are folded into a running maximum, sum and result. All of that depends
//          on the row's own position and window only, so neither the batch nor the cut of a prefill
//          into chunks changes a bit.
// Oracle   kernels/reference/attention.cc; bounds in tests/contract/kernels/attention_test.cc.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/upload.cuh"
#include "kernels/ops/attention.h"

namespace choir::cuda {

inline constexpr int kKeys = 128;  // of a chunk; a thread each

// The sequences of a launch in the order of their rows, with block tables where kernels read them.
struct PagedBatch {
  const AttentionSequence* sequences = nullptr;
  int64_t num_sequences = 0;
  int64_t first_row = 0;  // of the launch
};

// One row of the batch: where its result goes, which keys it sees.
struct PagedRow {
  int64_t row, position, begin;
  const int32_t* table;  // null: the row is no sequence's
};

CHOIR_DEVICE PagedRow FindRow(const PagedBatch& batch, int64_t index, int64_t window) {
  const int64_t row = batch.first_row + index;
  int64_t low = 0;
  int64_t high = batch.num_sequences;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (batch.sequences[middle].row_begin <= row ? low : high) = middle;
  }
  const AttentionSequence& s = batch.sequences[low];
  const int64_t at = row - s.row_begin;
  if (at < 0 || at >= s.row_count) return {row, 0, 0, nullptr};
  const int64_t position = s.first_position + at;
  const int64_t begin = window > 0 && position >= window ? position - window + 1 : 0;
  return {row, position, begin, s.block_table};
}

// A part of the columns of a pool of keys or values.
struct PoolPart {
  Elements data;
  int64_t block_tokens, width, column;
};

CHOIR_DEVICE int64_t PoolAt(const PoolPart& pool, const int32_t* table, int64_t position) {
  const int64_t slot =
      table[position / pool.block_tokens] * pool.block_tokens + position % pool.block_tokens;
  return slot * pool.width + pool.column;
}

// Shared memory of a block: query [k_dim], result [v_dim], scores [kKeys], scratch [kWarp].
struct AttendMemory {
  float* q;
  float* out;
  float* scores;
  float* scratch;
};

CHOIR_DEVICE AttendMemory MemoryOf(std::byte* shared, int64_t k_dim, int64_t v_dim) {
  auto* q = reinterpret_cast<float*>(shared);
  return {q, q + k_dim, q + k_dim + v_dim, q + k_dim + v_dim + kKeys};
}

constexpr int64_t AttendShared(int64_t k_dim, int64_t v_dim) {
  return (k_dim + v_dim + kKeys + kWarp) * static_cast<int64_t>(sizeof(float));
}

CHOIR_DEVICE float Score(const float* q, const Elements& keys, int64_t at, int64_t k_dim) {
  float lanes[4] = {};
  for (int64_t i = 0; i < k_dim; ++i) lanes[i % 4] = Fma(q[i], At(keys, at + i), lanes[i % 4]);
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

struct AttendShape {
  PoolPart k, v;
  int64_t k_dim, v_dim;
  float scale;
};

// m.q holds the query; leaves the result in m.out, of which thread i owns elements i, i + threads.
// `sink`: one more logit, -inf for none.
template <class Block>
CHOIR_DEVICE void Attend(Block& block, const AttendShape& a, const PagedRow& row, float sink,
                         const AttendMemory& m) {
  float top = sink;
  float sum = sink == -kInfinity ? 0.0f : 1.0f;
  for (int64_t i = block.thread(); i < a.v_dim; i += block.threads()) m.out[i] = 0.0f;
  block.Sync();
  for (int64_t c = row.begin / kKeys * kKeys; c <= row.position; c += kKeys) {
    const int64_t first = c > row.begin ? c : row.begin;
    const int64_t end = c + kKeys <= row.position ? c + kKeys : row.position + 1;
    const int64_t j = c + block.thread();
    const bool seen = j >= first && j < end;
    float score = -kInfinity;
    if (seen) score = Score(m.q, a.k.data, PoolAt(a.k, row.table, j), a.k_dim) * a.scale;
    const float new_top = Max(BlockMax(block, score, m.scratch), top);
    const float share = seen ? Exp(score - new_top) : 0.0f;
    m.scores[block.thread()] = share;
    const float chunk = BlockSum(block, share, m.scratch);  // a barrier: scores are there
    const float keep = top == -kInfinity ? 0.0f : Exp(top - new_top);
    sum = Fma(sum, keep, chunk);
    top = new_top;
    for (int64_t i = block.thread(); i < a.v_dim; i += block.threads()) {
      float value = 0.0f;
      for (int64_t n = first; n < end; ++n) {
        const float v = At(a.v.data, PoolAt(a.v, row.table, n) + i);
        value = Fma(m.scores[n - c], v, value);
      }
      m.out[i] = Fma(m.out[i], keep, value);
    }
    block.Sync();  // before scores are written again
  }
  for (int64_t i = block.thread(); i < a.v_dim; i += block.threads()) m.out[i] = m.out[i] / sum;
}

struct PagedAttentionKernel {
  const float* q;
  AttendShape shape;  // column of k and v: of head 0
  float* out;
  const float* sinks;  // or null
  PagedBatch batch;
  int64_t heads, group, window;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const PagedRow row = FindRow(batch, block.x() / heads, window);
    if (row.table == nullptr) return;
    const int64_t head = block.x() % heads;
    AttendShape a = shape;
    a.k.column = head / group * a.k_dim;
    a.v.column = head / group * a.v_dim;
    const AttendMemory m = MemoryOf(block.shared(), a.k_dim, a.v_dim);
    const int64_t at = row.row * heads + head;
    for (int64_t i = block.thread(); i < a.k_dim; i += block.threads()) {
      m.q[i] = q[at * a.k_dim + i];
    }
    Attend(block, a, row, sinks != nullptr ? sinks[head] : -kInfinity, m);
    for (int64_t i = block.thread(); i < a.v_dim; i += block.threads()) {
      out[at * a.v_dim + i] = m.out[i];
    }
  }
};

struct MlaAttentionKernel {
  const float* q_latent;
  const float* q_rope;
  AttendShape shape;
  float* out;
  PagedBatch batch;
  int64_t heads;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const PagedRow row = FindRow(batch, block.x() / heads, 0);
    if (row.table == nullptr) return;
    const int64_t head = block.x() % heads;
    const int64_t lora = shape.v_dim;
    const int64_t rope = shape.k_dim - lora;
    const AttendMemory m = MemoryOf(block.shared(), shape.k_dim, lora);
    const int64_t at = row.row * heads + head;
    for (int64_t i = block.thread(); i < lora; i += block.threads()) {
      m.q[i] = q_latent[at * lora + i];
    }
    for (int64_t i = block.thread(); i < rope; i += block.threads()) {
      m.q[lora + i] = q_rope[at * rope + i];
    }
    Attend(block, shape, row, -kInfinity, m);
    for (int64_t i = block.thread(); i < lora; i += block.threads()) {
      out[at * lora + i] = m.out[i];
    }
  }
};

inline PoolPart PartOf(const KvView& kv) {
  return {{kv.data.raw(), kv.data.dtype()}, kv.block_tokens(), kv.width(), 0};
}

// Sequences that only the host has, as many as the workspace holds.
class SequencePart {
 public:
  bool empty() const { return sequences_.empty(); }
  size_t BytesWith(int64_t blocks) const {
    return UploadBytes((sequences_.size() + 1) * sizeof(AttentionSequence)) +
           UploadBytes((tables_.size() + static_cast<size_t>(blocks)) * sizeof(int32_t));
  }
  void Add(const AttentionSequence& s, int64_t blocks) {
    sequences_.push_back(s);
    begins_.push_back(tables_.size());
    tables_.insert(tables_.end(), s.block_table, s.block_table + blocks);
  }
  // Launches over all rows from the first sequence's to the last one's, and is empty again.
  template <class Runner, class LaunchBatch>
  void Flush(const Runner& run, const LaunchBatch& launch) {
    if (empty()) return;
    Upload<Runner> upload(run);
    const int32_t* tables = upload(std::span<const int32_t>(tables_));
    for (size_t i = 0; i < sequences_.size(); ++i) sequences_[i].block_table = tables + begins_[i];
    std::sort(sequences_.begin(), sequences_.end(),
              [](const auto& a, const auto& b) { return a.row_begin < b.row_begin; });
    const int64_t first = sequences_.front().row_begin;
    const int64_t end = sequences_.back().row_begin + sequences_.back().row_count;
    launch(PagedBatch{upload(std::span<const AttentionSequence>(sequences_)),
                      static_cast<int64_t>(sequences_.size()), first},
           end - first);
    *this = {};
  }

 private:
  std::vector<AttentionSequence> sequences_;
  std::vector<size_t> begins_;  // of each one's table
  std::vector<int32_t> tables_;
};

// Calls launch(batch, rows): once for all `rows` of the batch where the device has the sequences,
// else for as many sequences at a time as the workspace holds tables for.
// REQUIRES: room for the table of the longest.
template <class Runner, class LaunchBatch>
void ForSequences(const Staged<AttentionSequence>& all, int64_t rows, int64_t block_tokens,
                  const Runner& run, const LaunchBatch& launch) {
  if (all.device != nullptr) {
    return launch(PagedBatch{all.device, static_cast<int64_t>(all.size())}, rows);
  }
  SequencePart part;
  for (const AttentionSequence& s : all) {
    if (s.row_count == 0) continue;
    const int64_t blocks = CeilDiv(s.first_position + s.row_count, block_tokens);
    if (part.BytesWith(blocks) > run.workspace().size()) part.Flush(run, launch);
    part.Add(s, blocks);
  }
  part.Flush(run, launch);
}

constexpr Grid WithBlocks(Grid grid, int64_t x) {
  grid.x = x;
  return grid;
}

template <class Runner>
void PagedAttention(const PagedAttentionArgs& a, const Runner& run) {
  const int64_t heads = a.q.dim(1);
  const int64_t k_dim = a.q.dim(2);
  const int64_t v_dim = a.out.dim(2);
  CHOIR_CHECK(heads % a.kv_heads == 0 && a.k.block_tokens() == a.v.block_tokens());
  CHOIR_CHECK(a.k.width() == a.kv_heads * k_dim && a.v.width() == a.kv_heads * v_dim);
  PagedAttentionKernel kernel{.q = a.q.f32(),
                              .shape = {PartOf(a.k), PartOf(a.v), k_dim, v_dim, a.scale},
                              .out = a.out.f32(),
                              .sinks = a.sinks.empty() ? nullptr : a.sinks.f32(),
                              .batch = {},
                              .heads = heads,
                              .group = heads / a.kv_heads,
                              .window = a.window};
  const Grid grid{.threads = kKeys, .shared_bytes = AttendShared(k_dim, v_dim)};
  ForSequences(a.sequences, a.q.dim(0), a.k.block_tokens(), run,
               [&](const PagedBatch& batch, int64_t rows) {
                 kernel.batch = batch;
                 run(WithBlocks(grid, rows * heads), kernel);
               });
}

template <class Runner>
void MlaAttention(const MlaAttentionArgs& a, const Runner& run) {
  const int64_t heads = a.q_latent.dim(1);
  const int64_t lora = a.q_latent.dim(2);
  const int64_t k_dim = lora + a.q_rope.dim(2);
  CHOIR_CHECK(a.latent.width() == k_dim && a.out.dim(2) == lora);
  const PoolPart pool = PartOf(a.latent);
  MlaAttentionKernel kernel{.q_latent = a.q_latent.f32(),
                            .q_rope = a.q_rope.f32(),
                            .shape = {pool, pool, k_dim, lora, a.scale},
                            .out = a.out.f32(),
                            .batch = {},
                            .heads = heads};
  const Grid grid{.threads = kKeys, .shared_bytes = AttendShared(k_dim, lora)};
  ForSequences(a.sequences, a.out.dim(0), a.latent.block_tokens(), run,
               [&](const PagedBatch& batch, int64_t rows) {
                 kernel.batch = batch;
                 run(WithBlocks(grid, rows * heads), kernel);
               });
}

}  // namespace choir::cuda
