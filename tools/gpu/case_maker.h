// What makes the cases of gpu_check: tensors on the card, and an op over them.
#pragma once

#include <functional>
#include <utility>

#include "tools/gpu/bench_cases.h"

namespace choir::gpu {

inline constexpr int64_t kBlockTokens = 64;

using cuda::KernelStream;
using cuda::KernelTable;

template <class Args>
using Op = void (*KernelTable::*)(const Args&, const KernelStream&);

class CaseMaker {
 public:
  CaseMaker(const BenchShapes& shapes, Card& card, const std::function<void(const BenchCase&)>& use)
      : s_(shapes), card_(card), use_(use) {}

 protected:
  template <class Args>
  void Use(BenchCase c, const Args& args, Op<Args> op) {
    c.run = [args, op](const KernelTable& table, const KernelStream& stream) {
      (table.*op)(args, stream);
    };
    c.same = [op](const KernelTable& a, const KernelTable& b) { return a.*op == b.*op; };
    use_(c);
  }
  TensorView F32(std::initializer_list<int64_t> shape) { return card_.Make(DType::kF32, shape); }
  // Empty for formats without.
  TensorView Scales(DType dtype, int64_t rows, int64_t width) {
    if (dtype == DType::kF4E2M1) return card_.Make(DType::kU8, {rows, width / kF4Block});
    if (dtype != DType::kF8E4M3) return {};
    return card_.Make(DType::kF32, {(rows + 127) / 128, (width + 127) / 128},
                      {.range = 0.004, .base = 0.005});
  }

  const BenchShapes s_;
  Card& card_;
  const std::function<void(const BenchCase&)>& use_;
};

}  // namespace choir::gpu
