// Random shapes of every op with what must come out: the cases of sweep.h. A case follows from its
// seed alone.
#pragma once

#include <cmath>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tools/gpu/card.h"

namespace choir::gpu {

struct SweepSizes {
  int64_t rows_max = 400;
  int64_t width_max = 2500;  // of K
  int64_t outputs_max = 700;
  int64_t experts_max = 12;
  int64_t heads_max = 128;
  int64_t keys_max = 1500;
  int64_t vocab_max = 60000;
  bool hopper = true;  // every other case of experts and MLA has a shape of Hopper's own kernels

  static SweepSizes Small() {  // for an emulated card
    return {.rows_max = 6,
            .width_max = 70,
            .outputs_max = 20,
            .experts_max = 5,
            .heads_max = 3,
            .keys_max = 20,
            .vocab_max = 90,
            .hopper = false};
  }
};

// What an op writes. Before each run it holds `before`, or where that is empty bytes that no op
// leaves behind. `bound`: how far element i may lie from the oracle's value `want`; or `row_part`:
// how far a row, of its norm. Neither: same bits.
struct Checked {
  std::string name;
  TensorView at;
  std::vector<std::byte> before;
  std::function<double(int64_t i, double want)> bound;
  double row_part = 0;
};

struct SweepCase {
  std::string op, shape;
  std::function<void(const cuda::KernelTable&, const cuda::KernelStream&)> run;
  // Whether two tables run the same function.
  std::function<bool(const cuda::KernelTable&, const cuda::KernelTable&)> same;
  std::vector<Checked> outputs;
  // Computes row `row` of outputs[0] by itself, where the op promises its bits; or empty.
  std::function<void(const cuda::KernelTable&, const cuda::KernelStream&, const TensorView& to)>
      alone;
  int64_t row = 0;
};

class Draw {
 public:
  Draw(uint64_t seed, const SweepSizes& sizes, Card* card)
      : sizes_(sizes), random_(seed), card_(*card) {}

  const SweepSizes& sizes() const { return sizes_; }
  Card& card() { return card_; }
  int64_t Int(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Coin() { return Int(0, 1) == 1; }
  float Float(float range) {
    return range * (static_cast<float>(random_() >> 40) / 8388608.0f - 1.0f);
  }
  // Sizes at which tiles begin and end, beside any.
  int64_t Size(int64_t most) {
    const int64_t edge = Int(1, 4) * 64 + Int(-1, 1);
    if (Int(0, 2) == 0 && edge <= most) return edge;
    return Int(1, Coin() ? std::min<int64_t>(most, 9) : most);
  }

  // On the card, with its values here.
  struct Values {
    TensorView view;
    std::vector<float> f32;  // as the card sees them; f8: without scales
  };
  Values Make(DType dtype, std::initializer_list<int64_t> shape, float range = 1.0f,
              float base = 0.0f);
  TensorView I32(std::initializer_list<int64_t> shape, std::span<const int32_t> values);
  TensorView Space(DType dtype, std::initializer_list<int64_t> shape);  // for an output

 private:
  const SweepSizes sizes_;
  std::mt19937_64 random_;
  Card& card_;
};

using MakeCase = SweepCase (*)(Draw&);
struct SweepOp {
  const char* name;
  MakeCase make;
};
std::vector<SweepOp> SweepOps();
// By file.
std::vector<SweepOp> SweepProducts();
std::vector<SweepOp> SweepExperts();
std::vector<SweepOp> SweepRows();
std::vector<SweepOp> SweepAttention();

template <class Args>
SweepCase CaseOf(const char* op, std::string shape, const Args& args,
                 void (*cuda::KernelTable::*function)(const Args&, const cuda::KernelStream&)) {
  SweepCase c{.op = op, .shape = std::move(shape)};
  c.run = [args, function](const cuda::KernelTable& table, const cuda::KernelStream& stream) {
    (table.*function)(args, stream);
  };
  c.same = [function](const cuda::KernelTable& a, const cuda::KernelTable& b) {
    return a.*function == b.*function;
  };
  return c;
}

// A sum of n products, each addition rounded once in any order of four lanes or more, whose
// magnitudes sum up to `absolute`: as tests/contract/kernels has it.
inline double SumBound(int64_t n, double absolute) {
  return 2.0 * (static_cast<double>(n) / 4 + 8) * absolute / (1 << 24);
}

}  // namespace choir::gpu
