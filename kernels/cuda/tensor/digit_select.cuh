// Which key a sum reaches: keys with an amount each, added up from the greatest key down, until the
// sum is as large as wanted. Keys and amounts are integers, keys are unique, so the answer does not
// depend on an order. A digit of 10 bits at a time, by a histogram of amounts in shared memory, a
// bin a thread.
//
// A key: a number above, below it a token's id such that of equal numbers the lower id is the
// greater key (IdKey). Keys of weights take as their first digit the place of the weight's top bit
// and its next four bits: softmax weights reach over 44 octaves, and most would share one bin of a
// plain digit. It grows with the weight, so the order is exact.
//
// A source of keys: ForEach(block, range, add) calls add(key, amount) for its keys in the range, or
// for more; each thread some of them. AmountLeast(key): no key from there on has less (0: unknown).
// kBitsLeft: lowest bits that need not be told apart.
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/simple/sample.cuh"

namespace choir::cuda {

inline constexpr int kSelectThreads = 1024;
inline constexpr int kDigitBits = 10;
static_assert(1 << kDigitBits == kSelectThreads);
inline constexpr uint64_t kIdMask = (uint64_t{1} << kIdBits) - 1;

CHOIR_DEVICE uint64_t IdKey(uint64_t number, int64_t id) {
  return (number << kIdBits) | static_cast<uint64_t>(kVocabMax - id);
}
CHOIR_DEVICE int64_t IdOfKey(uint64_t key) {
  return kVocabMax - static_cast<int64_t>(key & kIdMask);
}

// Bits that are needed for x. REQUIRES: 0 < x < 2^53.
CHOIR_DEVICE int BitsOf(uint64_t x) {
  return static_cast<int>(std::bit_cast<uint64_t>(static_cast<double>(x)) >> 52) - 1022;
}

// Keys base .. base + 2^bits - 1.
struct DigitRange {
  static constexpr int kAllWeights = 64;  // as bits: every key of a weight that is not 0
  static constexpr int kFractionBits = 4;

  uint64_t base = 0;
  int bits = kAllWeights;

  CHOIR_DEVICE bool Has(uint64_t key) const {
    return bits == kAllWeights || ((key - base) >> bits) == 0;
  }
  CHOIR_DEVICE int Shift() const { return bits > kDigitBits ? bits - kDigitBits : 0; }
  // REQUIRES: Has(key).
  CHOIR_DEVICE int BinOf(uint64_t key) const {
    if (bits != kAllWeights) return static_cast<int>((key - base) >> Shift());
    const auto weight = static_cast<double>(key >> kIdBits);  // exact
    const uint64_t digit = std::bit_cast<uint64_t>(weight) >> (52 - kFractionBits);
    return static_cast<int>(digit) - (1023 << kFractionBits);
  }
  CHOIR_DEVICE DigitRange Bin(int bin) const {
    if (bits != kAllWeights) return {base + (static_cast<uint64_t>(bin) << Shift()), Shift()};
    const int octave = bin >> kFractionBits;
    const auto digit = static_cast<uint64_t>(bin + (1023 << kFractionBits));
    const auto weight = std::bit_cast<double>(digit << (52 - kFractionBits));
    const int rest = octave > kFractionBits ? octave - kFractionBits : 0;
    return {static_cast<uint64_t>(weight) << kIdBits, rest + kIdBits};
  }
};

struct SelectMemory {
  uint64_t bins[kSelectThreads];
  uint64_t warps[kWarp];
  double doubles[kWarp];
  uint64_t above, own;  // of the bin that was found
  int32_t bin;
  uint32_t count;  // free for others
};

// Neighbours of one bin are one addition to it.
template <class Block>
struct BinAdder {
  Block& block;
  uint64_t* bins;
  int bin = 0;
  uint64_t sum = 0;

  CHOIR_DEVICE void Add(int to, uint64_t amount) {
    if (to != bin) Flush();
    bin = to;
    sum += amount;
  }
  CHOIR_DEVICE void Flush() {
    if (sum != 0) block.AtomicAdd(bins + bin, sum);
    sum = 0;
  }
};

struct FoundBin {
  int bin;              // -1: all bins together do not reach it
  uint64_t above, own;  // amounts of all keys above the bin, and in it
  uint64_t total;       // of all bins
  uint64_t wanted;
};

struct LaneSums {
  uint64_t above = 0;  // of the lanes above this one
  uint64_t all;
};

template <class Block>
CHOIR_DEVICE LaneSums SumLanes(Block& block, uint64_t value) {
  LaneSums sums{.all = value};
  CHOIR_UNROLL
  for (int mask = 1; mask < kWarp; mask *= 2) {
    const uint64_t other = block.ShuffleXor(sums.all, mask);
    if ((block.lane() & mask) == 0) sums.above += other;
    sums.all += other;
  }
  return sums;
}

// The highest bin at which the sum from the last bin down, begun at `above`, reaches
// wanted(total) > above. Begins with a barrier; bins may be written again after it.
template <class Block, class Wanted>
CHOIR_DEVICE FoundBin FindBin(Block& block, SelectMemory* memory, uint64_t above,
                              const Wanted& wanted) {
  static_assert(kSelectThreads == kWarp * kWarp);  // a lane a warp
  block.Sync();
  const uint64_t own = memory->bins[block.thread()];
  const LaneSums bins = SumLanes(block, own);
  if (block.lane() == 0) memory->warps[block.warp()] = bins.all;
  if (block.thread() == 0) memory->bin = -1;
  block.Sync();
  const LaneSums warps = SumLanes(block, memory->warps[block.lane()]);
  above += bins.above + block.ShuffleXor(warps.above, block.lane() ^ block.warp());
  const uint64_t want = wanted(warps.all);
  if (above < want && want <= above + own) {
    memory->bin = block.thread();
    memory->above = above;
    memory->own = own;
  }
  block.Sync();
  return {memory->bin, memory->above, memory->own, warps.all, want};
}

struct SelectedKey {
  bool there = false;   // all amounts together reach what is wanted
  uint64_t key = 0;     // the keys from here on are those that are needed; 0 when not there
  uint64_t before = 0;  // the sum of all these but the last, or more than it: less than wanted
  uint64_t total = 0;   // of the whole range
};

// wanted(total) > 0: may depend on the amounts of the whole range.
template <class Block, class Source, class Wanted>
CHOIR_DEVICE SelectedKey SelectKey(Block& block, SelectMemory* memory, const Source& source,
                                   DigitRange range, const Wanted& wanted_of) {
  SelectedKey selected;
  uint64_t above = 0;
  uint64_t wanted = 0;
  CHOIR_ROLLED
  while (true) {
    memory->bins[block.thread()] = 0;
    block.Sync();
    BinAdder<Block> adder{block, memory->bins};
    source.ForEach(block, range, [&](uint64_t key, uint64_t amount) {
      if (range.Has(key)) adder.Add(range.BinOf(key), amount);
    });
    adder.Flush();
    const FoundBin found = FindBin(block, memory, above, [&](uint64_t total) {
      return wanted != 0 ? wanted : wanted_of(total);
    });
    if (wanted == 0) selected.total = found.total;
    wanted = found.wanted;
    if (found.bin < 0) return selected;
    range = range.Bin(found.bin);
    above = found.above;
    selected.there = true;
    selected.key = range.base;
    selected.before = above;
    const uint64_t least = source.AmountLeast(range.base);
    if (range.bits <= Source::kBitsLeft || found.own < 2 * least) return selected;  // one key
    selected.before = wanted - least;
    if (least > 0 && above + found.own == wanted) return selected;  // the whole bin
  }
}

}  // namespace choir::cuda
