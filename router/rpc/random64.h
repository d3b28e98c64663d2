// Uniform 64 bits that nobody can guess, for seeds and ids. Any thread.
#pragma once

#include <cstdint>

namespace choir {

uint64_t Random64();

}  // namespace choir
