// How much memory this process may have at most.
#pragma once

#include <cstdint>
#include <string>

namespace choir {

// Bytes: the machine's memory, or the limit of this process's cgroup (version 2, and the memory
// controller of version 1) or of one above it, whichever is least. What cannot be read is no limit.
// `root` is where /proc and /sys are, for tests. Any thread.
uint64_t HostMemoryBytes(const std::string& root = "");

}  // namespace choir
