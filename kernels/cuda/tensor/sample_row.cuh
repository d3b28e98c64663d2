// How the fast sampler reads a row of logits, and the keys that it selects from: of the row, and of
// a list of candidates in shared memory.
//
// A row is read in units of four values that lie on 16 bytes; where it does not begin there, or its
// length is no multiple of four, the first and the last unit have places that are no token's. Eight
// units are a group: a line of 128 bytes, of which the greatest value is kept.
#pragma once

#include "kernels/cuda/tensor/digit_select.cuh"
#include "kernels/cuda/tensor/load8.cuh"
#include "kernels/cuda/tensor/softmax_bounds.cuh"

namespace choir::cuda {

inline constexpr int kUnit = 4;
inline constexpr int kGroupUnits = 8;

// As unsigned integers floats order as themselves; NaN as -inf, -0 as 0.
inline constexpr uint32_t kOrderOfLeast = 0x007fffffu;  // -inf's
CHOIR_DEVICE uint32_t OrderOf(float v) {
  const auto bits = std::bit_cast<uint32_t>((v == v ? v : -kInfinity) + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
CHOIR_DEVICE float ValueOfOrder(uint32_t order) {
  return std::bit_cast<float>((order >> 31) != 0 ? order & 0x7fffffffu : ~order);
}
CHOIR_DEVICE uint64_t ValueKey(float v, int64_t id) { return IdKey(OrderOf(v), id); }
CHOIR_DEVICE float ValueOfKey(uint64_t key) {
  return ValueOfOrder(static_cast<uint32_t>(key >> kIdBits));
}

struct FourLogits {
  float at[kUnit];
};

struct LogitRow {
  const float* values;
  float* maxima;  // of groups, shared
  int32_t vocab;
  int32_t skew;  // places of the first unit before the first token

  static CHOIR_DEVICE int32_t SkewOf(const float* values) {
    return static_cast<int32_t>(reinterpret_cast<uintptr_t>(values) / sizeof(float) % kUnit);
  }
  CHOIR_DEVICE int32_t units() const { return (vocab + skew + kUnit - 1) / kUnit; }
  CHOIR_DEVICE int32_t groups() const { return (units() + kGroupUnits - 1) / kGroupUnits; }
  CHOIR_DEVICE int32_t IdOf(int32_t unit, int j) const { return unit * kUnit + j - skew; }
  CHOIR_DEVICE bool Has(int32_t id) const { return id >= 0 && id < vocab; }
  CHOIR_DEVICE float MaximumAt(int32_t unit) const { return maxima[unit / kGroupUnits]; }

  // -inf where there is no token. REQUIRES: unit < units().
  CHOIR_DEVICE FourLogits At(int32_t unit) const {
    const int32_t first = IdOf(unit, 0);
    FourLogits four;
    if (first >= 0 && first + kUnit <= vocab) {
      const auto wide = *reinterpret_cast<const Wide16*>(values + first);
      CHOIR_UNROLL
      for (int j = 0; j < kUnit; ++j) four.at[j] = std::bit_cast<float>(wide.words[j]);
    } else {
      CHOIR_UNROLL
      for (int j = 0; j < kUnit; ++j) {
        four.at[j] = Has(first + j) ? values[first + j] : -kInfinity;
      }
    }
    return four;
  }

  // Calls see(unit, four) for the units of groups with a value of `least` or more. So many of a
  // thread's loads are under way together.
  template <int kAtOnce, class Block, class See>
  CHOIR_DEVICE void ForUnits(Block& block, float least, const See& see) const {
    const int32_t end = units();
    CHOIR_ROLLED
    for (int32_t u0 = block.thread(); u0 < end; u0 += kAtOnce * block.threads()) {
      FourLogits fours[kAtOnce];
      bool there[kAtOnce];
      CHOIR_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        const int32_t u = u0 + i * block.threads();
        there[i] = u < end && MaximumAt(u) >= least;
        if (there[i]) fours[i] = At(u);
      }
      CHOIR_UNROLL
      for (int i = 0; i < kAtOnce; ++i) {
        if (there[i]) see(u0 + i * block.threads(), fours[i]);
      }
    }
  }
};

// What is kept of a row: tokens whose value key and weight key reach these, and whose weight does.
struct KeptTokens {
  ExactSoftmax softmax;
  float floor;  // what is less weighs nothing, or is not kept
  uint64_t value_key = 0;
  uint64_t weight_key = 0;
  double least = 0.0;

  // 0 for what is not kept: it weighs nothing.
  CHOIR_DEVICE uint64_t WeightOf(float value, int32_t id) const {
    if (!(value >= floor) || ValueKey(value, id) < value_key) return 0;
    return Check(softmax.WeightOf(value), id);
  }
  CHOIR_DEVICE uint64_t Check(uint64_t weight, int64_t id) const {
    const bool kept = IdKey(weight, id) >= weight_key && static_cast<double>(weight) >= least;
    return kept ? weight : 0;
  }
};

// Keys of the groups' greatest values, each counting 1: enough for a bound, so not to the last bit.
struct MaximaKeys {
  static constexpr int kBitsLeft = 12;
  const float* maxima;
  int32_t groups;

  static CHOIR_DEVICE DigitRange All() { return {kOrderOfLeast, 32}; }
  static CHOIR_DEVICE uint64_t AmountLeast(uint64_t) { return 0; }
  template <class Block, class Add>
  CHOIR_DEVICE void ForEach(Block& block, DigitRange, const Add& add) const {
    for (int32_t g = block.thread(); g < groups; g += block.threads()) add(OrderOf(maxima[g]), 1);
  }
};

// Value keys of a row, each counting 1.
struct RowValues {
  static constexpr int kBitsLeft = 0;
  const LogitRow& row;

  static CHOIR_DEVICE uint64_t AmountLeast(uint64_t) { return 1; }
  template <class Block, class Add>
  CHOIR_DEVICE void ForEach(Block& block, DigitRange range, const Add& add) const {
    const float least = ValueOfKey(range.base);
    row.ForUnits<2>(block, least, [&](int32_t unit, const FourLogits& four) {
      CHOIR_UNROLL
      for (int j = 0; j < kUnit; ++j) {
        const int32_t id = row.IdOf(unit, j);
        if (row.Has(id) && four.at[j] >= least) add(ValueKey(four.at[j], id), 1);
      }
    });
  }
};

// Weight keys of what is kept of a row, each counting its weight.
struct RowWeights {
  static constexpr int kBitsLeft = 0;
  const LogitRow& row;
  const KeptTokens& kept;

  static CHOIR_DEVICE uint64_t AmountLeast(uint64_t key) { return key >> kIdBits; }
  template <class Block, class Add>
  CHOIR_DEVICE void ForEach(Block& block, DigitRange range, const Add& add) const {
    float least = kept.floor;
    float most = kInfinity;
    if (range.bits != DigitRange::kAllWeights) {
      const uint64_t last = range.base + ((uint64_t{1} << range.bits) - 1);
      least = Max(least, kept.softmax.LeastValueOf(range.base >> kIdBits));
      most = kept.softmax.MostValueOf(last >> kIdBits);
    }
    row.ForUnits<1>(block, least, [&](int32_t unit, const FourLogits& four) {
      CHOIR_UNROLL
      for (int j = 0; j < kUnit; ++j) {
        if (!(four.at[j] >= least && four.at[j] <= most)) continue;
        const int32_t id = row.IdOf(unit, j);
        const uint64_t weight = kept.WeightOf(four.at[j], id);
        if (weight != 0) add(IdKey(weight, id), weight);
      }
    });
  }
};

struct KeyList {
  const uint64_t* keys;
  int32_t count;

  template <class Block, class See>
  CHOIR_DEVICE void ForEach(Block& block, const See& see) const {
    for (int32_t i = block.thread(); i < count; i += block.threads()) see(keys[i]);
  }
};

// A list of value keys, each counting 1.
struct ListValues {
  static constexpr int kBitsLeft = 0;
  KeyList list;

  static CHOIR_DEVICE uint64_t AmountLeast(uint64_t) { return 1; }
  template <class Block, class Add>
  CHOIR_DEVICE void ForEach(Block& block, DigitRange, const Add& add) const {
    list.ForEach(block, [&](uint64_t key) { add(key, 1); });
  }
};

// A list of weight keys, each counting its weight.
struct ListWeights {
  static constexpr int kBitsLeft = 0;
  KeyList list;

  static CHOIR_DEVICE uint64_t AmountLeast(uint64_t key) { return key >> kIdBits; }
  template <class Block, class Add>
  CHOIR_DEVICE void ForEach(Block& block, DigitRange, const Add& add) const {
    list.ForEach(block, [&](uint64_t key) {
      if (key >> kIdBits != 0) add(key, key >> kIdBits);
    });
  }
};

// The ids of a list of weight keys, the lowest id the greatest key, each counting its weight where
// it is kept.
struct ListIds {
  static constexpr int kBitsLeft = 0;
  KeyList list;
  const KeptTokens& kept;

  static CHOIR_DEVICE DigitRange All() { return {0, kIdBits}; }
  static CHOIR_DEVICE uint64_t AmountLeast(uint64_t) { return 0; }
  template <class Block, class Add>
  CHOIR_DEVICE void ForEach(Block& block, DigitRange, const Add& add) const {
    list.ForEach(block, [&](uint64_t key) {
      const uint64_t weight = kept.Check(key >> kIdBits, IdOfKey(key));
      if (weight != 0) add(key & kIdMask, weight);
    });
  }
};

}  // namespace choir::cuda
