// A block of MLA on Hopper: 64 heads of a row against their keys, 64 at a time. Shapes, bound and
// plan: mla_attention.cuh.
//
// Two warpgroups compute. Each has half of the columns of all results in registers, and tiles of
// keys take turns: of its own tiles a warpgroup computes scores and shares, exp(score - top) in
// bf16, and hands these to the other one through shared memory. So while one has a softmax, the
// tensor cores have the products of the other.
//
// Order of sums: a score is one accumulator, the rope's columns first, then the latent's,
// ascending by 16. A column of a result is one accumulator a chunk, keys ascending by 16, scaled as
// the top of its query rises with a tile of keys. A sum of shares: of a tile by threads of 16 keys,
// then as a butterfly. Which warpgroup has a tile follows from the tile's position. None of that
// looks at other queries or at where the block's keys begin and end.
#pragma once

#include "kernels/cuda/hopper/mla_result.cuh"

namespace choir::cuda {

inline constexpr int kMlaScores = 32;    // of a thread: 64 queries by 64 keys
inline constexpr int kMlaLoadLines = 4;  // keys of a thread that loads: 16 apart
inline constexpr float kLog2E = 1.44269504088896341f;

struct MlaTileKernel {
  static constexpr int kThreads = kMlaThreads;
  static constexpr bool kAwaitsEarlier = true;  // its barriers are made before

  AttendProblem a;
  AttendParts parts;

  using Work = MlaWork;
  using Tops = MlaTops;
  using Sums = float[kMlaSums];
  using Scores = float[kMlaScores];
  using Pairs = uint32_t[kMlaKeys / 16][4];  // shares as fragments

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    Work w;
    w.m = {block.shared()};
    w.m.Init(block);
    block.AwaitEarlier();
    w.tile = FindTile(a, block.x());
    if (w.tile.rows == 0) return;
    w.keys = KeysOf(a, parts, w.tile, block.y());
    if (w.keys.begin == w.keys.end) return;
    w.first = w.keys.begin / kMlaKeys;
    w.last = (w.keys.end - 1) / kMlaKeys;
    w.group = block.warpgroup();
    if (w.group == kMlaGroups) {
      block.template GiveRegisters<40>();
      LoadKeys(block, w);
    } else {
      block.template TakeRegisters<232>();
      w.line = block.warp() % 4 * 16 + block.lane() / 4;
      Compute(block, w);
    }
  }

 private:
  // The loading warpgroup: eight threads a line of a square.
  template <class Block>
  CHOIR_DEVICE void LoadKeys(Block& block, const Work& w) const {
    int32_t slots[kMlaLoadLines];
    FindSlots(block, w, w.first, slots);
    for (int32_t t = w.first; t <= w.last; ++t) {
      int32_t next[kMlaLoadLines];
      FindSlots(block, w, t + 1, next);  // tables are read while copies run
      CHOIR_ROLLED
      for (int i = 0; i < kMlaSquares; ++i) {
        const int square = SquareInTurn(i);
        const int part = PartOfSquare(square);
        if (i == 0 || part != PartOfSquare(SquareInTurn(i - 1))) {
          block.AwaitPhase(w.m.Empty(w.Stage(t), part), w.Phase(t) ^ 1);
        }
        LoadSquare(block, w, t, square, slots);
      }
      CHOIR_UNROLL
      for (int i = 0; i < kMlaLoadLines; ++i) slots[i] = next[i];
    }
  }

  // The order in which squares are loaded and multiplied: the one that is free first.
  CHOIR_DEVICE static int SquareInTurn(int i) { return i == 0 ? kMlaRopeSquare : i - 1; }

  template <class Block>
  CHOIR_DEVICE static int LoadLine(const Block& block, int i) {
    return block.thread() % kWarpgroup / kLineThreads + i * (kMlaKeys / kMlaLoadLines);
  }

  template <class Block>
  CHOIR_DEVICE void FindSlots(Block& block, const Work& w, int32_t t,
                              int32_t (&slots)[kMlaLoadLines]) const {
    CHOIR_UNROLL
    for (int i = 0; i < kMlaLoadLines; ++i) {
      const int32_t position = t * kMlaKeys + LoadLine(block, i);
      slots[i] = kNoSlot;
      if (position >= w.keys.end) continue;
      slots[i] =
          w.tile.table[position / a.block_tokens] * a.block_tokens + position % a.block_tokens;
    }
  }

  // Keys behind the last one are zeros, so their values add nothing.
  template <class Block>
  CHOIR_DEVICE void LoadSquare(Block& block, const Work& w, int32_t t, int square,
                               const int32_t (&slots)[kMlaLoadLines]) const {
    std::byte* const to = w.m.Keys(w.Stage(t), square);
    const int unit = block.thread() % kLineThreads;
    const bf16* from = a.k.data + square * 64 + unit * kUnit8;
    CHOIR_UNROLL
    for (int i = 0; i < kMlaLoadLines; ++i) {
      const bool there = slots[i] != kNoSlot;
      block.CopyAsync(MlaMemory::Unit(to, LoadLine(block, i), unit),
                      from + (there ? int64_t{slots[i]} * kMlaColumns : 0), there);
    }
    block.ArriveAfterCopies(w.m.Full(w.Stage(t), square));
  }

  // A computing warpgroup.
  template <class Block>
  CHOIR_DEVICE void Compute(Block& block, const Work& w) const {
    LoadQueries(block, w);
    Sums sums;
    Clear(sums);
    Softmax earlier[2] = {SoftmaxBegin(nullptr, 0), SoftmaxBegin(nullptr, 0)};
    for (int32_t t = w.first + w.group; t <= w.last + 1; t += kMlaGroups) {
      const bool own = t <= w.last;  // or there is but the tile before it
      Scores scores;
      if (own) MultiplyScores(block, w, t, scores);
      Tops others{};
      if (t > w.first) AddOthers(block, w, t - 1, sums, &others);
      Tops tops;
      Pairs pairs;
      if (own) tops = Share(block, w, t, others, scores, pairs);
      block.template WgmmaWait<0>();
      block.Pin(sums);
      if (t > w.first) EndTile(block, w, t - 1, others, earlier, sums);
      if (!own) return;
      HandOver(block, w, tops, pairs);
      AddOwn(block, w, t, tops, pairs, sums);
      EndTile(block, w, t, tops, earlier, sums);
    }
  }

  template <class Block>
  CHOIR_DEVICE void LoadQueries(Block& block, const Work& w) const {
    constexpr int kUnits = kMlaColumns / kUnit8;
    CHOIR_ROLLED
    for (int i = block.thread(); i < kMlaQueries * kUnits; i += kMlaGroups * kWarpgroup) {
      const int line = i / kUnits;
      const int column = i % kUnits * kUnit8;
      const int32_t row = QueryRow(a, w.tile, line);
      bf16 values[8];
      if (column < kMlaLora) {
        a.q.Get(row, column, values);
      } else {
        a.q_rope.Get(row, column - kMlaLora, values);
      }
      std::byte* const square = w.m.Queries(column / 64);
      PutEight(reinterpret_cast<uint32_t*>(MlaMemory::Unit(square, line, column % 64 / kUnit8)),
               values);
    }
    block.FenceAsync();
    block.Arrive(w.m.QueriesThere());
    block.AwaitPhase(w.m.QueriesThere(), 0);
  }

  // All lanes of the warp are done with the part.
  template <class Block>
  CHOIR_DEVICE void Release(Block& block, const Work& w, int32_t t, int part) const {
    block.SyncWarp();
    if (block.lane() == 0) block.Arrive(w.m.Empty(w.Stage(t), part));
  }

  // scores = q · keys of a tile of this warpgroup, as its squares come.
  template <class Block>
  CHOIR_DEVICE void MultiplyScores(Block& block, const Work& w, int32_t t, Scores& scores) const {
    block.Pin(scores);
    CHOIR_UNROLL
    for (int i = 0; i < kMlaSquares; ++i) {
      const int square = SquareInTurn(i);
      block.AwaitPhase(w.m.Full(w.Stage(t), square), w.Phase(t));
      block.FenceAsync();
      block.WgmmaFence();
      const uint64_t q = OperandAt(block.SharedAddress(w.m.Queries(square)));
      const uint64_t k = OperandAt(block.SharedAddress(w.m.Keys(w.Stage(t), square)));
      CHOIR_UNROLL
      for (int s = 0; s < 4; ++s) {
        block.template Wgmma<false>(scores, q + s * kOperandStep, k + s * kOperandStep, i + s > 0);
      }
    }
    block.WgmmaCommit();
    block.template WgmmaWait<0>();
    block.Pin(scores);
    Release(block, w, t, kMlaRopePart);
  }

  CHOIR_DEVICE bool BeginsChunk(int32_t t) const { return t * kMlaKeys % a.chunk == 0; }
  CHOIR_DEVICE bool EndsChunk(const Work& w, int32_t t) const {
    return t == w.last || BeginsChunk(t + 1);
  }

  // What values of a tile this warpgroup has, as an operand.
  template <class Block>
  CHOIR_DEVICE uint64_t ValuesOf(Block& block, const Work& w, int32_t t) const {
    const std::byte* at = w.m.Keys(w.Stage(t), w.group * kMlaHalfSquares);
    return AcrossAt(block.SharedAddress(at), kSquareBytes);
  }

  CHOIR_DEVICE static void Clear(Sums& sums) {
    CHOIR_UNROLL
    for (int i = 0; i < kMlaSums; ++i) sums[i] = 0.0f;
  }

  CHOIR_DEVICE static void Scale(const Tops& by, Sums& sums) {
    CHOIR_UNROLL
    for (int i = 0; i < kMlaSums; ++i) sums[i] *= by.keep[i % 4 / 2];
  }

  // Begins sums += shares · values of a tile of the other warpgroup, which has waited for its keys.
  template <class Block>
  CHOIR_DEVICE void AddOthers(Block& block, const Work& w, int32_t t, Sums& sums,
                              Tops* tops) const {
    block.AwaitPhase(w.m.SharesThere(1 - w.group), w.Phase(t));
    CHOIR_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int line = w.line + 8 * h;
      tops->at[h] = {w.m.Tops()[line], w.m.Sums()[line]};
      tops->keep[h] = w.m.Keeps()[line];
    }
    Scale(*tops, sums);
    block.Pin(sums);
    block.WgmmaFence();
    const uint64_t shares = OperandAt(block.SharedAddress(w.m.Shares()));
    const uint64_t values = ValuesOf(block, w, t);
    CHOIR_UNROLL
    for (int s = 0; s < kMlaKeys / 16; ++s) {
      block.WgmmaAcross(sums, shares + s * kOperandStep, values + s * kAcrossStep, true);
    }
    block.WgmmaCommit();
  }

  // The same of an own tile, to its end.
  template <class Block>
  CHOIR_DEVICE void AddOwn(Block& block, const Work& w, int32_t t, const Tops& tops,
                           const Pairs& pairs, Sums& sums) const {
    Scale(tops, sums);
    block.Pin(sums);
    block.WgmmaFence();
    const uint64_t values = ValuesOf(block, w, t);
    CHOIR_UNROLL
    for (int s = 0; s < kMlaKeys / 16; ++s) {
      block.WgmmaAcross(sums, pairs[s], values + s * kAcrossStep, true);
    }
    block.WgmmaCommit();
    block.template WgmmaWait<0>();
    block.Pin(sums);
  }

  // Shares of a tile's scores, after those before it in its chunk. Score 4j + 2h + i is of query
  // line + 8h and key 8j + 2t + i.
  template <class Block>
  CHOIR_DEVICE Tops Share(Block& block, const Work& w, int32_t t, const Tops& before,
                          Scores& scores, Pairs& pairs) const {
    if ((t + 1) * kMlaKeys > w.keys.end) Mask(block, w, t, scores);
    const float factor = a.scale * kLog2E;
    Tops tops;
    CHOIR_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Softmax so_far = BeginsChunk(t) ? SoftmaxBegin(nullptr, 0) : before.at[h];
      float top = so_far.top;
      CHOIR_UNROLL
      for (int i = 0; i < kMlaScores / 2; ++i) top = Max(scores[i / 2 * 4 + 2 * h + i % 2], top);
      top = Max(block.ShuffleXor(top, 1), top);
      top = Max(block.ShuffleXor(top, 2), top);
      const float shift = -(top * factor);
      float sum = 0.0f;
      CHOIR_UNROLL
      for (int j = 0; j < kMlaScores / 4; ++j) {
        const float* two = &scores[4 * j + 2 * h];
        const uint32_t pair = block.RoundPair(block.QuickExp2(Fma(two[0], factor, shift)),
                                              block.QuickExp2(Fma(two[1], factor, shift)));
        pairs[j / 2][j % 2 * 2 + h] = pair;
        sum += ToF32(static_cast<bf16>(pair & 0xffff)) + ToF32(static_cast<bf16>(pair >> 16));
      }
      sum += block.ShuffleXor(sum, 1);
      sum += block.ShuffleXor(sum, 2);
      tops.keep[h] = block.QuickExp2(Fma(so_far.top, factor, shift));
      tops.at[h] = {top, Fma(so_far.sum, tops.keep[h], sum)};
    }
    return tops;
  }

  // Keys behind the last one that the row sees.
  template <class Block>
  CHOIR_DEVICE void Mask(Block& block, const Work& w, int32_t t, Scores& scores) const {
    const int32_t left = w.keys.end - t * kMlaKeys - block.lane() % 4 * 2;
    CHOIR_UNROLL
    for (int i = 0; i < kMlaScores; ++i) {
      if (i / 4 * 8 + i % 2 >= left) scores[i] = -kInfinity;
    }
  }

  // To the other warpgroup, which is done with what was there: this one has waited for its own
  // products with it, and reads its lines of it warp by warp.
  template <class Block>
  CHOIR_DEVICE void HandOver(Block& block, const Work& w, const Tops& tops,
                             const Pairs& pairs) const {
    block.SyncWarp();
    const int t = block.lane() % 4;
    CHOIR_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int line = w.line + 8 * h;
      CHOIR_UNROLL
      for (int j = 0; j < kMlaKeys / kUnit8; ++j) {
        auto* to = reinterpret_cast<uint32_t*>(MlaMemory::Unit(w.m.Shares(), line, j));
        to[t] = pairs[j / 2][j % 2 * 2 + h];
      }
      if (t > 0) continue;
      w.m.Tops()[line] = tops.at[h].top;
      w.m.Sums()[line] = tops.at[h].sum;
      w.m.Keeps()[line] = tops.keep[h];
    }
    block.FenceAsync();
    block.Arrive(w.m.SharesThere(w.group));
  }

  // This warpgroup's values of the tile may be overwritten; what a chunk gave is handed over.
  template <class Block>
  CHOIR_DEVICE void EndTile(Block& block, const Work& w, int32_t t, const Tops& tops,
                            Softmax (&earlier)[2], Sums& sums) const {
    Release(block, w, t, w.group);
    if (!EndsChunk(w, t)) return;
    MlaResult{a, parts, w}.Put(block, t, tops, earlier, sums);
    Clear(sums);
  }
};

}  // namespace choir::cuda
