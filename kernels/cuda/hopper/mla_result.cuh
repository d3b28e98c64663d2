// What a thread of a block of MLA on Hopper (mla_tile.cuh) has in hand, and where a chunk's result
// goes: to a place of its own as a part, or folded into `out`.
#pragma once

#include "kernels/cuda/hopper/mla_memory.cuh"
#include "kernels/cuda/tensor/attend_tile.cuh"

namespace choir::cuda {

inline constexpr int kMlaSums = 128;  // of a thread: 64 queries by 256 columns a warpgroup

struct MlaWork {
  AttendTile tile;
  MlaMemory m;
  KeyRange keys;
  int32_t first, last;  // tiles of keys
  int group;            // this warpgroup
  int line;             // of the queries, of this thread's upper sums; the lower ones are 8 on

  // Tiles alternate between stages as between warpgroups; `first` is even, as a chunk begins there.
  CHOIR_DEVICE int Stage(int32_t t) const { return t % kMlaStages; }
  CHOIR_DEVICE uint32_t Phase(int32_t t) const {
    return static_cast<uint32_t>((t - first) / kMlaStages % 2);
  }
};

// Of the two queries that a thread has sums of.
struct MlaTops {
  Softmax at[2];
  float keep[2];
};

// How sums become a mean, here and where parts are folded: one division a query.
CHOIR_DEVICE float MlaInverse(float sum) { return 1.0f / sum; }

struct MlaResult {
  const AttendProblem& a;
  const AttendParts& parts;
  const MlaWork& w;

  // After tile t, the last of a chunk or of the block.
  template <class Block>
  CHOIR_DEVICE void Put(Block& block, int32_t t, const MlaTops& tops, Softmax (&earlier)[2],
                        const float (&sums)[kMlaSums]) const {
    CHOIR_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Softmax part{tops.at[h].top * a.scale, tops.at[h].sum};
      const int line = w.line + 8 * h;
      if (parts.values != nullptr) {
        PutPart(block, line, part, &sums[2 * h]);
      } else {
        const Fold fold = FoldOf(earlier[h], part);
        PutFolded(block, t, line, fold, &sums[2 * h]);
        earlier[h] = fold.all;
      }
    }
  }

 private:
  // sums: every fourth two of them are of this query.
  template <class Block>
  CHOIR_DEVICE void PutPart(Block& block, int line, const Softmax& part, const float* sums) const {
    const int64_t at = (block.x() * parts.count + block.y()) * kMlaQueries + line;
    if (w.group == 0 && block.lane() % 4 == 0) {
      parts.folds[at * 2] = part.top;
      parts.folds[at * 2 + 1] = part.sum;
    }
    ColumnPair* to = PairsAt(block, parts.values + at * kMlaLora);
    CHOIR_UNROLL
    for (int j = 0; j < kMlaSums / 4; ++j) to[4 * j] = {sums[4 * j], sums[4 * j + 1]};
  }

  // out holds what earlier chunks gave, not yet divided.
  template <class Block>
  CHOIR_DEVICE void PutFolded(Block& block, int32_t t, int line, const Fold& fold,
                              const float* sums) const {
    ColumnPair* to = PairsAt(block, a.out + int64_t{QueryRow(a, w.tile, line)} * kMlaLora);
    const bool first = t * kMlaKeys < a.chunk;
    const float inverse = t == w.last ? MlaInverse(fold.all.sum) : 1.0f;
    constexpr int kAtOnce = 8;
    CHOIR_UNROLL
    for (int j0 = 0; j0 < kMlaSums / 4; j0 += kAtOnce) {
      ColumnPair before[kAtOnce] = {};
      if (!first) {
        CHOIR_UNROLL
        for (int j = 0; j < kAtOnce; ++j) before[j] = to[4 * (j0 + j)];
      }
      CHOIR_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        const float* two = sums + 4 * (j0 + j);
        to[4 * (j0 + j)] = {FoldedIn(before[j].first, fold, two[0]) * inverse,
                            FoldedIn(before[j].second, fold, two[1]) * inverse};
      }
    }
  }

  // Folded() without a branch.
  CHOIR_DEVICE static float FoldedIn(float earlier, const Fold& fold, float part) {
    const float both = Fma(earlier, fold.keep, part * fold.add);
    return fold.add == 0.0f ? earlier : both;
  }

  // This thread's first two columns of a result; its next two are 8 columns on.
  template <class Block>
  CHOIR_DEVICE ColumnPair* PairsAt(const Block& block, float* result) const {
    return reinterpret_cast<ColumnPair*>(result + w.group * (kMlaLora / kMlaGroups) +
                                         block.lane() % 4 * 2);
  }
};

}  // namespace choir::cuda
