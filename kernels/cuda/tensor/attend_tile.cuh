// A block of attention on tensor cores: up to 64 queries of one sequence that share their keys,
// against those keys, 64 at a time. Plan and reasons: attention.cuh.
//
// Warps have two shapes. Scores: a warp has 16 keys of up to 32 queries. Values: a warp has an
// eighth of the columns of all queries, in registers. Between the two, exp(score - top) goes
// through shared memory, rounded to bf16; sums are of the rounded ones.
//
// Order of sums: a score is one accumulator, columns ascending by 16. A column of a result is one
// accumulator a chunk, keys ascending by 16, scaled as the top of its query rises with a tile of
// keys. None of that looks at other queries of the block, or at how many there are.
//
// A key behind a query counts as 0 · value for it: a value that is not finite would show in
// results of its sequence up to 63 positions ahead of it.
#pragma once

#include "kernels/cuda/tensor/attend_memory.cuh"
#include "kernels/cuda/tensor/mma_tile.cuh"

namespace choir::cuda {

inline constexpr int kAttendThreads = 256;
inline constexpr int kAttendWarps = kAttendThreads / kWarp;
inline constexpr int kLineThreads = 8;  // copy a line together
inline constexpr int kThreadLines = kTileKeys * kLineThreads / kAttendThreads;
inline constexpr int32_t kNoSlot = -1;

struct alignas(8) ColumnPair {
  float first, second;
};

// kRowTiles: of 16 queries. kValueTiles: of 8 columns of a result, for each warp.
template <int kRowTiles, int kValueTiles>
struct AttendTileKernel {
  static constexpr int kQueries = 16 * kRowTiles;
  static constexpr int kScoreTiles = kRowTiles < 2 ? 1 : 2;
  static constexpr int kScoreWarps = kRowTiles / kScoreTiles * kKeyWarps;
  static constexpr int kThreads = kAttendThreads;
  static constexpr int kFragments = kRowTiles * kValueTiles;  // 4 registers each
  static constexpr int kBlocksLeast = kFragments <= 2 ? 3 : (kFragments <= 8 ? 2 : 1);
  static_assert(kScoreWarps <= kAttendWarps && kValueTiles % 2 == 0);

  AttendProblem a;
  AttendParts parts;
  AttendSizes sizes;

  struct Work {
    AttendTile tile;
    TileMemory<kQueries> m;
    int32_t begin, end;  // keys
    int32_t key0;        // of the tile of keys in hand
    int parity;          // which half of tops it finds its own in
    int32_t slots[kThreadLines];
  };
  struct Scores {
    float at[kScoreTiles][2][4];
  };
  struct Sums {
    float at[kRowTiles][kValueTiles][4] = {};
  };

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    Work w;
    w.tile = FindTile(a, block.x());
    if (w.tile.rows == 0) return;
    const KeyRange keys = cuda::KeysOf(a, parts, w.tile, block.y());
    if (keys.begin == keys.end) return;
    w.begin = keys.begin;
    w.end = keys.end;
    w.m = {block.shared(), sizes.k_pitch};
    LoadQueries(block, w);
    Sums sums;
    const int32_t first = w.begin / kTileKeys;
    const int32_t last = (w.end - 1) / kTileKeys;
    const bool ahead = sizes.stages == 2;
    FindSlots(block, first, &w);
    if (ahead) CopyKeys(block, first + 1, 0, &w);
    for (int32_t t = first; t <= last; ++t) {
      const int stage = ahead ? (t - first) % 2 : 0;
      if (!ahead) {
        if (t > first) block.Sync();  // before keys are overwritten
        CopyKeys(block, t + 1, 0, &w);
      }
      block.template WaitCopies<0>();
      block.Sync();
      if (ahead && t < last) CopyKeys(block, t + 2, 1 - stage, &w);
      w.key0 = t * kTileKeys;
      w.parity = (t - first) % 2;
      Share(block, w, KeysOf(w, stage));
      AddShares(block, w);
      AddValues(block, w, ValuesOf(w, stage), sums);
      if (t == last || (w.key0 + kTileKeys) % a.chunk == 0) EndChunk(block, w, t == last, sums);
    }
  }

 private:
  CHOIR_DEVICE Lines KeysOf(const Work& w, int stage) const {
    return {w.m.stages() + stage * sizes.StageElements(), sizes.k_pitch};
  }
  CHOIR_DEVICE Lines ValuesOf(const Work& w, int stage) const {
    const Lines keys = KeysOf(w, stage);
    if (a.v.data == nullptr) return keys;
    return {keys.at + kTileKeys * sizes.k_pitch, sizes.v_pitch};
  }
  CHOIR_DEVICE int KeyUnits() const { return (a.k.columns + 15) / 16 * 2; }

  template <class Block>
  CHOIR_DEVICE void LoadQueries(Block& block, const Work& w) const {
    const int units = KeyUnits();
    for (int i = block.thread(); i < kQueries * units; i += kAttendThreads) {
      const int line = i / units;
      const int unit = i % units;
      const int32_t row = QueryRow(a, w.tile, line);
      const int64_t column = unit * kUnit8;
      bf16 values[8] = {};
      if (row >= 0 && column < a.q.columns) {
        a.q.Get(row, column, values);
      } else if (row >= 0 && column < a.k.columns) {
        a.q_rope.Get(row, column - a.q.columns, values);
      }
      PutEight(reinterpret_cast<uint32_t*>(w.m.q().Unit(line, unit)), values);
    }
    const int i = block.thread();
    if (i >= kQueries) return;
    const int32_t row = QueryRow(a, w.tile, i);
    const Softmax before = SoftmaxBegin(row < 0 ? nullptr : a.sinks, row % a.heads);
    w.m.row()[i] = row;
    w.m.position()[i] = row < 0 ? -1 : w.tile.position0 + i / a.heads_here;
    w.m.tops()[i] = -kInfinity;
    w.m.sums()[i] = 0.0f;
    w.m.earlier()[i] = before.top;
    w.m.earlier()[kQueries + i] = before.sum;
  }

  // Where this thread's lines of a tile of keys lie in the pools.
  template <class Block>
  CHOIR_DEVICE void FindSlots(Block& block, int32_t t, Work* w) const {
    CHOIR_UNROLL
    for (int i = 0; i < kThreadLines; ++i) {
      const int32_t position =
          t * kTileKeys + i * kTileKeys / kThreadLines + block.thread() / kLineThreads;
      w->slots[i] = kNoSlot;
      if (position < w->begin || position >= w->end) continue;
      w->slots[i] =
          w->tile.table[position / a.block_tokens] * a.block_tokens + position % a.block_tokens;
    }
  }

  // Copies the tile of keys whose slots are known, and finds those of `next`: tables are read
  // while there is other work. Keys outside of [begin, end) are zeros, so their values add nothing.
  template <class Block>
  CHOIR_DEVICE void CopyKeys(Block& block, int32_t next, int stage, Work* w) const {
    CHOIR_UNROLL
    for (int i = 0; i < kThreadLines; ++i) {
      const int n = i * kTileKeys / kThreadLines + block.thread() / kLineThreads;
      const bool there = w->slots[i] != kNoSlot;
      const int64_t slot = there ? w->slots[i] : 0;
      CopyLine(block, a.k, slot * a.k.width + w->tile.kv_head * a.k.columns, there,
               KeysOf(*w, stage), n);
      if (a.v.data == nullptr) continue;
      CopyLine(block, a.v, slot * a.v.width + w->tile.kv_head * a.v.columns, there,
               ValuesOf(*w, stage), n);
    }
    block.CommitCopies();
    FindSlots(block, next, w);
  }

  template <class Block>
  CHOIR_DEVICE void CopyLine(Block& block, const AttendPool& pool, int64_t at, bool there,
                             const Lines& to, int line) const {
    const int units = (pool.columns + 15) / 16 * 2;
    CHOIR_ROLLED
    for (int u = block.thread() % kLineThreads; u < units; u += kLineThreads) {
      const bool exists = there && u * kUnit8 < pool.columns;
      block.CopyAsync(to.Unit(line, u), pool.data + at + (exists ? u * kUnit8 : 0), exists);
    }
  }

  // The line of row fragment m of this warp's scores, its upper or lower half.
  template <class Block>
  CHOIR_DEVICE int ScoreLine(Block& block, int m, int half) const {
    return block.warp() / kKeyWarps * 16 * kScoreTiles + m * 16 + block.lane() / 4 + half * 8;
  }
  // The first of the two neighbouring keys that this thread has of key fragment n, in the tile.
  template <class Block>
  CHOIR_DEVICE int ScoreKey(Block& block, int n) const {
    return block.warp() % kKeyWarps * 16 + n * 8 + block.lane() % 4 * 2;
  }

  // m.p = exp(score - top), tops and keeps anew. Ends with a barrier.
  template <class Block>
  CHOIR_DEVICE void Share(Block& block, const Work& w, const Lines& keys) const {
    const bool scores_here = block.warp() < kScoreWarps;
    Scores scores = {};
    if (scores_here) {
      Multiply(block, w, keys, scores);
      Mask(block, w, scores);
    }
    block.Sync();
    if (scores_here) StoreShares(block, w, scores);
    block.Sync();
  }

  template <class Block>
  CHOIR_DEVICE void Multiply(Block& block, const Work& w, const Lines& keys, Scores& scores) const {
    const int line0 = block.warp() / kKeyWarps * 16 * kScoreTiles;
    const int key0 = block.warp() % kKeyWarps * 16;
    const int units = KeyUnits();
    for (int unit = 0; unit < units; unit += 2) {
      uint32_t b[2][2];
      LoadB(block, keys, key0, unit, b);
      CHOIR_UNROLL
      for (int m = 0; m < kScoreTiles; ++m) {
        uint32_t q[4];
        LoadA(block, w.m.q(), line0 + m * 16, unit, q);
        block.Mma(scores.at[m][0], q, b[0]);
        block.Mma(scores.at[m][1], q, b[1]);
      }
    }
  }

  // Scales, leaves -inf for keys that a query does not see, and puts the largest into m.maxima.
  template <class Block>
  CHOIR_DEVICE void Mask(Block& block, const Work& w, Scores& scores) const {
    CHOIR_UNROLL
    for (int i = 0; i < 2 * kScoreTiles; ++i) {
      const int m = i / 2;
      const int line = ScoreLine(block, m, i % 2);
      const int32_t end = w.m.position()[line];
      const int32_t begin = KeyBegin(end, a.window);
      float top = -kInfinity;
      CHOIR_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int32_t key = w.key0 + ScoreKey(block, j / 2) + j % 2;
        float& score = scores.at[m][j / 2][i % 2 * 2 + j % 2];
        score = key >= begin && key <= end ? score * a.scale : -kInfinity;
        top = Max(score, top);
      }
      top = Max(block.ShuffleXor(top, 1), top);
      top = Max(block.ShuffleXor(top, 2), top);
      if (block.lane() % 4 == 0) {
        w.m.maxima()[line * kKeyWarps + block.warp() % kKeyWarps] = top;
      }
    }
  }

  template <class Block>
  CHOIR_DEVICE void StoreShares(Block& block, const Work& w, const Scores& scores) const {
    const auto share = [](float score, float top) {
      const float value = ExpNotPositive(score - top);
      return static_cast<uint32_t>(ToBF16(score == -kInfinity ? 0.0f : value));
    };
    CHOIR_UNROLL
    for (int i = 0; i < 2 * kScoreTiles; ++i) {
      const int line = ScoreLine(block, i / 2, i % 2);
      const float before = w.m.tops()[w.parity * kQueries + line];
      float top = before;
      for (int k = 0; k < kKeyWarps; ++k) top = Max(w.m.maxima()[line * kKeyWarps + k], top);
      CHOIR_UNROLL
      for (int n = 0; n < 2; ++n) {
        const int key = ScoreKey(block, n);
        const float* two = &scores.at[i / 2][n][i % 2 * 2];
        bf16* to = w.m.p().Unit(line, key / kUnit8) + key % kUnit8;
        *reinterpret_cast<uint32_t*>(to) = share(two[0], top) | share(two[1], top) << 16;
      }
      if (block.warp() % kKeyWarps == 0 && block.lane() % 4 == 0) {
        w.m.tops()[(1 - w.parity) * kQueries + line] = top;
        w.m.keeps()[line] = before == -kInfinity ? 0.0f : ExpNotPositive(before - top);
      }
    }
  }

  // m.sums: four threads a query, each 16 keys ascending, then as a butterfly.
  template <class Block>
  CHOIR_DEVICE void AddShares(Block& block, const Work& w) const {
    if (block.thread() >= 4 * kQueries) return;
    const int line = block.thread() / 4;
    const int quarter = block.thread() % 4;
    float sum = 0.0f;
    for (int u = 0; u < 2; ++u) {
      const auto eight = *reinterpret_cast<const Wide16*>(w.m.p().Unit(line, quarter * 2 + u));
      CHOIR_UNROLL
      for (int i = 0; i < 8; ++i) {
        sum += ToF32(static_cast<bf16>(eight.words[i / 2] >> (i % 2 * 16)));
      }
    }
    sum += block.ShuffleXor(sum, 1);
    sum += block.ShuffleXor(sum, 2);
    if (quarter == 0) w.m.sums()[line] = Fma(w.m.sums()[line], w.m.keeps()[line], sum);
  }

  template <class Block>
  CHOIR_DEVICE void AddValues(Block& block, const Work& w, const Lines& values, Sums& sums) const {
    CHOIR_UNROLL
    for (int m = 0; m < kRowTiles; ++m) {
      CHOIR_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float keep = w.m.keeps()[m * 16 + block.lane() / 4 + i / 2 * 8];
        CHOIR_UNROLL
        for (int n = 0; n < kValueTiles; ++n) sums.at[m][n][i] *= keep;
      }
    }
    const int unit0 = block.warp() * kValueTiles;
    if (unit0 * kUnit8 >= a.v_columns) return;
    const int unit_last = values.pitch / kUnit8 - 2;  // beyond v_columns are results of no column
    CHOIR_ROLLED
    for (int key = 0; key < kTileKeys; key += 16) {
      uint32_t shares[kRowTiles][4];
      CHOIR_UNROLL
      for (int m = 0; m < kRowTiles; ++m) LoadA(block, w.m.p(), m * 16, key / kUnit8, shares[m]);
      CHOIR_UNROLL
      for (int n = 0; n < kValueTiles; n += 2) {
        uint32_t v[2][2];
        LoadAcross(block, values, key, unit0 + n < unit_last ? unit0 + n : unit_last, v);
        CHOIR_UNROLL
        for (int m = 0; m < kRowTiles; ++m) {
          block.Mma(sums.at[m][n], shares[m], v[0]);
          block.Mma(sums.at[m][n + 1], shares[m], v[1]);
        }
      }
    }
  }

  // Hands over what the chunk gave, and begins anew.
  template <class Block>
  CHOIR_DEVICE void EndChunk(Block& block, const Work& w, bool last, Sums& sums) const {
    block.Sync();  // tops and sums are there
    const int64_t part0 = (block.x() * parts.count + block.y()) * kQueries;
    if (const int i = block.thread(); i < kQueries) {
      float& top = w.m.tops()[(1 - w.parity) * kQueries + i];
      const Softmax part{top, w.m.sums()[i]};
      if (parts.values != nullptr) {
        parts.folds[(part0 + i) * 2] = part.top;
        parts.folds[(part0 + i) * 2 + 1] = part.sum;
      } else {
        Join(w, i, part);
      }
      top = -kInfinity;
      w.m.sums()[i] = 0.0f;
    }
    block.Sync();
    CHOIR_UNROLL
    for (int i = 0; i < 2 * kRowTiles; ++i) {
      const int line = i / 2 * 16 + i % 2 * 8 + block.lane() / 4;
      CHOIR_UNROLL
      for (int n = 0; n < kValueTiles; ++n) {
        float* two = &sums.at[i / 2][n][i % 2 * 2];
        const int column = (block.warp() * kValueTiles + n) * 8 + block.lane() % 4 * 2;
        if (w.m.row()[line] >= 0 && column < a.v_columns) {
          const ColumnPair pair{two[0], two[1]};
          if (parts.values != nullptr) {
            At2(parts.values + (part0 + line) * a.v_columns + column) = pair;
          } else {
            PutFolded(w, line, column, pair, last);
          }
        }
        two[0] = two[1] = 0.0f;
      }
    }
  }

  static CHOIR_DEVICE ColumnPair& At2(float* at) { return *reinterpret_cast<ColumnPair*>(at); }

  CHOIR_DEVICE void Join(const Work& w, int i, const Softmax& part) const {
    const Fold fold = FoldOf({w.m.earlier()[i], w.m.earlier()[kQueries + i]}, part);
    w.m.maxima()[i * kKeyWarps] = fold.keep;
    w.m.maxima()[i * kKeyWarps + 1] = fold.add;
    w.m.earlier()[i] = fold.all.top;
    w.m.earlier()[kQueries + i] = fold.all.sum;
  }

  // out holds what earlier chunks gave, not yet divided.
  CHOIR_DEVICE void PutFolded(const Work& w, int line, int column, const ColumnPair& part,
                              bool last) const {
    ColumnPair& to = At2(a.out + int64_t{w.m.row()[line]} * a.v_columns + column);
    const bool first = w.key0 / a.chunk == w.begin / a.chunk;
    const ColumnPair before = first ? ColumnPair{0.0f, 0.0f} : to;
    const float keep = w.m.maxima()[line * kKeyWarps];
    const float add = w.m.maxima()[line * kKeyWarps + 1];
    const float sum = last ? w.m.earlier()[kQueries + line] : 1.0f;
    to = {Folded(before.first, keep, part.first, add) / sum,
          Folded(before.second, keep, part.second, add) / sum};
  }
};

}  // namespace choir::cuda
