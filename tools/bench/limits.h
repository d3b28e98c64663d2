// What this machine can do at most, measured in the run that uses it: reading memory, multiply-add.
#pragma once

#include <cstddef>
#include <span>

#include "common/runtime/thread_team.h"

namespace choir::bench {

// Seconds; for a team of one, of its CPU time: neighbours on the core do not count.
double Now(const ThreadTeam& team);

// Bytes per second of reading `memory` (far larger than the caches), one ascending stream a thread.
double ReadBandwidth(std::span<const std::byte> memory, ThreadTeam& team);

// Operations per second (two per multiply-add) in registers: f32 FMA, and BF16 dot products where
// the CPU has them (0 otherwise).
double FmaPeak(ThreadTeam& team);
double Bf16DotPeak(ThreadTeam& team);

}  // namespace choir::bench
