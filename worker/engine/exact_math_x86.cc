#include "worker/engine/exact_math_loops.inl"
#include "worker/engine/exact_math_variant.h"

namespace choir {
namespace {

[[gnu::target("avx2")]] void WeightsAvx2(const float* values, size_t n, double max, double scale,
                                         uint64_t* out) {
  Weights(values, n, max, scale, out);
}

[[gnu::target("avx2")]] double ExpSumAvx2(const float* values, size_t n, double max) {
  return ExpSum(values, n, max);
}

[[gnu::target("avx2")]] size_t BestAvx2(const float* values, size_t n) { return Best(values, n); }

}  // namespace

ExactLoops ChooseExactLoops() {
  if (__builtin_cpu_supports("avx2")) return {WeightsAvx2, ExpSumAvx2, BestAvx2};
  return PortableExactLoops();
}

}  // namespace choir
