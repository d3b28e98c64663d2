// How long an op takes at the least: its bytes at the rate of a copy, its FLOPs at the rate of
// cuBLASLt's products, both measured on the same card in the same run. Pure.
#pragma once

#include <cstdint>
#include <string>

namespace choir::gpu {

// The units whose rate bounds an op: tensor cores, for no others are faster.
enum class Math : uint8_t { kBF16, kF8 };

struct Limits {
  double copy_gbs = 0;     // read and written together
  double bf16_tflops = 0;  // 0: not known, nothing is bound by it
  double f8_tflops = 0;

  double tflops(Math math) const { return math == Math::kF8 ? f8_tflops : bf16_tflops; }
};

struct Work {
  int64_t bytes = 0;
  int64_t flops = 0;
  Math math = Math::kBF16;
};

struct Floor {
  double us = 0;
  bool by_copy = true;  // what binds: the copy, else the products
};

inline Floor FloorOf(const Work& work, const Limits& limits) {
  const double rate = limits.tflops(work.math);
  const double copy = limits.copy_gbs > 0 ? static_cast<double>(work.bytes) / limits.copy_gbs : 0;
  const double products = rate > 0 ? static_cast<double>(work.flops) / rate * 1e-3 : 0;
  return {(copy >= products ? copy : products) * 1e-3, copy >= products};
}

}  // namespace choir::gpu
