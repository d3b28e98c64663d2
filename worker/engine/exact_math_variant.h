// Which vector width exact_math's loops run with. Private to worker/engine; CMake takes one of the
// files that define ChooseExactLoops.
#pragma once

#include <cstddef>
#include <cstdint>

namespace choir {

struct ExactLoops {
  void (*weights)(const float* values, size_t n, double max, double scale, uint64_t* out);
  double (*exp_sum)(const float* values, size_t n, double max);
  size_t (*best)(const float* values, size_t n);
};

ExactLoops PortableExactLoops();
ExactLoops ChooseExactLoops();  // the widest this CPU has

}  // namespace choir
