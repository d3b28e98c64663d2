// What becomes of the sums of a tile (product.cuh): outputs of an expert's rows, or glu's results
// as the rows of the next product. Each takes a warpgroup's sums, and the first of its outputs.
#pragma once

#include "kernels/cuda/fours.cuh"
#include "kernels/cuda/hopper/product.cuh"
#include "kernels/cuda/simple/experts.cuh"

namespace choir::cuda {

// The first of this thread's two outputs of 64; the other one is 8 further.
template <class Block>
CHOIR_DEVICE int LowOutput(const Block& block) {
  return block.warp() % 4 * 16 + block.lane() / 4;
}

// Calls put(output, row, first, second) for sums of a wave: of outputs `output` and `output` + 1 of
// its 64 and of row `row` of the tile. A thread has outputs g and g + 8; lanes next to each other
// swap one, so that what is stored together lies together.
template <class Block, int kSums, class PutPair>
CHOIR_DEVICE void ForPairs(Block& block, const float (&sums)[kSums], const PutPair& put) {
  const int g = block.lane() / 4;
  const bool odd = g % 2 == 1;
  const int output = block.warp() % 4 * 16 + g / 2 * 2 + (odd ? 8 : 0);
  const int row = block.lane() % 4 * 2;
  CHOIR_UNROLL
  for (int j = 0; j < kSums / 4; ++j) {
    CHOIR_UNROLL
    for (int i = 0; i < 2; ++i) {
      const float low = sums[4 * j + i];
      const float high = sums[4 * j + 2 + i];
      const float other = block.ShuffleXor(odd ? low : high, 4);
      put(output, 8 * j + row + i, odd ? other : low, odd ? high : other);
    }
  }
}

// sums += the biases of their outputs, of a wave that begins at output0.
template <class Block, int kSums>
CHOIR_DEVICE void AddBias(Block& block, const Elements& bias, int32_t outputs, int32_t output0,
                          float (&sums)[kSums]) {
  const int32_t low = output0 + LowOutput(block);
  const float biases[2] = {low < outputs ? At(bias, low) : 0.0f,
                           low + 8 < outputs ? At(bias, low + 8) : 0.0f};
  CHOIR_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] += biases[i % 4 / 2];
}

// y[row, output] = sum (+ the expert's bias). REQUIRES: outputs is even, y on a multiple of 8
// bytes.
struct StoreOutputs {
  void* y;
  DType dtype;
  int32_t outputs;

  template <class Block, class Operand, int kWaves, int kSums>
  CHOIR_DEVICE void operator()(Block& block, const Operand& of, const RowTile& t, int32_t group0,
                               float (&sums)[kWaves][kSums]) const {
    CHOIR_UNROLL
    for (int wave = 0; wave < kWaves; ++wave) {
      const int32_t output0 = group0 + wave * kWaveOutputs;
      if (of.bias.data != nullptr) AddBias(block, of.bias, outputs, output0, sums[wave]);
      const int64_t at = static_cast<int64_t>(t.row0) * outputs + output0;
      const auto exists = [&](int output, int row) {
        return row < t.rows && output0 + output < outputs;
      };
      if (dtype == DType::kBF16) {
        bf16* to = static_cast<bf16*>(y) + at;
        ForPairs(block, sums[wave], [&](int output, int row, float first, float second) {
          if (!exists(output, row)) return;
          *reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(row) * outputs + output) =
              block.RoundPair(first, second);
        });
      } else {
        float* to = static_cast<float*>(y) + at;
        ForPairs(block, sums[wave], [&](int output, int row, float first, float second) {
          if (!exists(output, row)) return;
          *reinterpret_cast<FloatPair*>(to + static_cast<int64_t>(row) * outputs + output) = {
              first, second};
        });
      }
    }
  }
};

// Glu by the quick functions of the card, as exact as QuickSigmoid (operands.cuh).
template <class Block, int kSums>
CHOIR_DEVICE void ApplyGluTo(Block& block, const Glu& glu, float (&gates)[kSums],
                             const float (&ups)[kSums]) {
  if (glu.kind == Glu::Kind::kSilu) {
    CHOIR_UNROLL
    for (int i = 0; i < kSums; ++i) gates[i] = gates[i] * block.QuickSigmoid(gates[i]) * ups[i];
    return;
  }
  CHOIR_UNROLL
  for (int i = 0; i < kSums; ++i) {
    const float gate = gates[i] > glu.limit ? glu.limit : gates[i];
    float up = ups[i] > glu.limit ? glu.limit : ups[i];
    if (up < -glu.limit) up = -glu.limit;
    gates[i] = (up + 1.0f) * gate * block.QuickSigmoid(glu.alpha * gate);
  }
}

// scratch[row, f] = glu(gate, up) in FP32, of weights without biases.
struct StoreGluF32 {
  float* scratch;
  int32_t inner;
  Glu glu;

  template <class Block, class Operand, int kSums>
  CHOIR_DEVICE void operator()(Block& block, const Operand&, const RowTile& t, int32_t f0,
                               float (&sums)[2][kSums]) const {
    ApplyGluTo(block, glu, sums[0], sums[1]);
    float* to = scratch + static_cast<int64_t>(t.row0) * inner + f0;
    ForPairs(block, sums[0], [&](int output, int row, float first, float second) {
      if (row >= t.rows || f0 + output >= inner) return;
      *reinterpret_cast<FloatPair*>(to + static_cast<int64_t>(row) * inner + output) = {first,
                                                                                        second};
    });
  }
};

// scratch[row, f] = glu(gate, up) in bf16; wide: in the order that WidenWeights has them.
struct StoreGlu {
  bf16* scratch;
  int32_t inner;
  Glu glu;
  bool wide;

  template <class Block, class Operand, int kSums>
  CHOIR_DEVICE void operator()(Block& block, const Operand& of, const RowTile& t, int32_t f0,
                               float (&sums)[2][kSums]) const {
    if (of.bias.data != nullptr) AddBias(block, of.bias, f0, sums);
    ApplyGluTo(block, glu, sums[0], sums[1]);
    bf16* to = scratch + static_cast<int64_t>(t.row0) * inner + f0;  // f0 % kWideGroup == 0
    ForPairs(block, sums[0], [&](int output, int row, float first, float second) {
      if (row >= t.rows || f0 + output >= inner) return;
      const int place = wide ? PlaceOf(output) : output;
      *reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(row) * inner + place) =
          block.RoundPair(first, second);
    });
  }

  // Gates' and ups' in turn.
  template <class Block, int kSums>
  CHOIR_DEVICE void AddBias(Block& block, const Elements& bias, int32_t f0,
                            float (&sums)[2][kSums]) const {
    const int32_t low = f0 + LowOutput(block);
    CHOIR_UNROLL
    for (int wave = 0; wave < 2; ++wave) {
      const float biases[2] = {low < inner ? At(bias, 2 * low + wave) : 0.0f,
                               low + 8 < inner ? At(bias, 2 * (low + 8) + wave) : 0.0f};
      CHOIR_UNROLL
      for (int i = 0; i < kSums; ++i) sums[wave][i] += biases[i % 4 / 2];
    }
  }
};

}  // namespace choir::cuda
