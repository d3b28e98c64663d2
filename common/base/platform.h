// The one place for what differs between processors (tidy allows #if here and in kernels' path
// tables).
#pragma once

namespace choir {

// In a spin loop: lets the sibling thread run and saves power.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace choir
