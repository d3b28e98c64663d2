// Bounded spinning before a thread goes to sleep. Never spin longer: with more ranks than cores an
// unbounded spin keeps its peer off the core for a whole scheduler tick (4 ms and more).
#pragma once

namespace choir {

inline constexpr int kSpinsBeforeSleep = 200;  // of CpuRelax(): 2-10 us

}  // namespace choir
