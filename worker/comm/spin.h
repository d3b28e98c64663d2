// Bounded spinning before a thread goes to sleep. Never spin longer: with more ranks than cores an
// unbounded spin keeps its peer off the core for a whole scheduler tick (4 ms and more).
#pragma once

namespace choir {

inline constexpr int kSpinsBeforeSleep = 200;  // 2-10 us

inline void SpinPause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace choir
