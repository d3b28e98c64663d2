// How a launch of attention on tensor cores is cut: by what the batch, the card and the workspace
// offer. No bit depends on it (attention.cuh). Host code.
#pragma once

#include <algorithm>
#include <span>

#include "kernels/cuda/tensor/attend_memory.cuh"
#include "kernels/cuda/upload.cuh"

namespace choir::cuda {

// What is known of a batch's sequences before they are looked at one by one.
struct AttendBounds {
  int64_t rows = 0;    // of the longest share of a batch
  int64_t chunks = 0;  // of keys that one sequence's rows see
};

// keys_max: as in MlaAttentionArgs; nothing else may be asked then. Where only the device knows the
// sequences, blocks walk all chunks that there are.
inline AttendBounds BoundsOf(const Staged<AttentionSequence>& all, int64_t keys_max,
                             const AttendProblem& a) {
  if (keys_max > 0) {
    const int64_t seen = a.window > 0 ? std::min<int64_t>(keys_max, a.window + a.chunk) : keys_max;
    return {.rows = 1, .chunks = CeilDiv(seen, a.chunk)};
  }
  if (all.host == nullptr) return {.rows = a.rows, .chunks = 1};
  AttendBounds bounds;
  for (const AttentionSequence& s : all) {
    if (s.row_count == 0) continue;
    const int32_t last = s.first_position + s.row_count - 1;
    const int32_t first = a.window > 0 ? std::max(0, s.first_position - a.window + 1) : 0;
    bounds.rows = std::max<int64_t>(bounds.rows, s.row_count);
    bounds.chunks = std::max<int64_t>(bounds.chunks, last / a.chunk - first / a.chunk + 1);
  }
  return bounds;
}

struct AttendPlan {
  int row_tiles = 1;  // of 16 queries: 1 or 4
  AttendSizes sizes;
  int64_t parts_at_once = 0;  // 0: blocks fold their own
};

// The tile of `a` for so many queries.
inline void SetTile(AttendProblem* a, int32_t queries) {
  a->heads_here = std::min(a->group, queries);
  a->rows_here = queries / a->heads_here;
  a->head_tiles = static_cast<int32_t>(CeilDiv(a->group, a->heads_here));
}

// Of the shared memory of a multiprocessor each block takes 1 KB for itself. What one block may
// have is the rest for one; this is the rest for each of two.
constexpr int64_t SharedOfTwo(int64_t shared_max) {
  constexpr int64_t kReserved = 1024;
  return (shared_max + kReserved) / 2 - kReserved;
}

// Two stages where they cost no second block of a multiprocessor, or there is none anyway.
inline AttendSizes SizesOf(const AttendProblem& a, int32_t queries, int64_t shared_max) {
  AttendSizes sizes{queries, LinePitch(a.k.columns),
                    a.v.data == nullptr ? 0 : LinePitch(a.v_columns), 1};
  const int64_t of_two = SharedOfTwo(shared_max);
  const bool lonely = SharedBytes(sizes) > of_two;
  sizes.stages = 2;
  if (SharedBytes(sizes) > (lonely ? shared_max : of_two)) sizes.stages = 1;
  return sizes;
}

inline int64_t PartsRoom(const AttendProblem& a, int32_t queries, size_t bytes) {
  const int64_t lines = TilesOf(a) * queries;
  const auto floats = static_cast<int64_t>(bytes / sizeof(float)) - 2 * lines;
  return std::max<int64_t>(0, floats / (lines * (a.v_columns + 2)));
}

struct PartsPlace {
  const CardLimits& card;
  size_t bytes;
};

// A part a block where tiles are fewer than multiprocessors; 0: blocks fold their own.
inline int64_t PartsAtOnce(const AttendProblem& a, int32_t queries, const AttendBounds& bounds,
                           const PartsPlace& place) {
  const int64_t room = std::min(bounds.chunks, PartsRoom(a, queries, place.bytes));
  return room > 1 && TilesOf(a) < place.card.multiprocessors ? room : 0;
}

// Sets the tile of `a`, too. 64 queries where they fill the card, for keys are read once a tile.
inline AttendPlan PlanOf(AttendProblem* a, const AttendBounds& bounds, const CardLimits& card,
                         size_t part_bytes) {
  AttendPlan plan;
  for (const int row_tiles : {4, 1}) {
    const int32_t queries = 16 * row_tiles;
    SetTile(a, queries);
    plan.row_tiles = row_tiles;
    plan.sizes = SizesOf(*a, queries, card.shared_bytes);
    const bool fills = bounds.rows * a->group > 16 &&
                       TilesOf(*a) * bounds.chunks >= card.multiprocessors &&
                       SharedBytes(plan.sizes) <= card.shared_bytes;
    if (row_tiles == 1 || fills) break;
  }
  plan.parts_at_once = PartsAtOnce(*a, plan.sizes.queries, bounds, {card, part_bytes});
  return plan;
}

// Room for tables of all sequences, or half; at least for the longest. The rest is for parts.
inline size_t TableBytes(const Staged<AttentionSequence>& all, int64_t block_tokens,
                         size_t workspace) {
  if (all.device != nullptr) return 0;
  size_t sum = 0;
  size_t most = 0;
  for (const AttentionSequence& s : all) {
    const int64_t blocks = CeilDiv(s.first_position + s.row_count, block_tokens);
    const size_t bytes = UploadBytes(sizeof(AttentionSequence)) +
                         UploadBytes(static_cast<size_t>(blocks) * sizeof(int32_t));
    sum += bytes;
    most = std::max(most, bytes);
  }
  return std::min(workspace, std::max(most, std::min(sum, UploadBytes(workspace / 2))));
}

}  // namespace choir::cuda
