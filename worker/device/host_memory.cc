#include "worker/device/host_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

namespace choir {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// The first number of the file; "max" is none.
uint64_t NumberIn(const std::filesystem::path& file) {
  std::ifstream in(file);
  uint64_t number = 0;
  return in >> number ? number : kNoLimit;
}

uint64_t MachineMemory(const std::string& root) {
  std::ifstream in(root + "/proc/meminfo");
  std::string key, rest;
  uint64_t kib = 0;
  while (in >> key >> kib) {
    std::getline(in, rest);
    if (key == "MemTotal:") return kib * 1024;
  }
  return kNoLimit;
}

// Of the group at `path` below `mount` and of all above it. In a container the mount may begin at
// its own group, and the path is not there: what is there counts.
uint64_t LeastLimit(const std::string& mount, std::filesystem::path path, const char* file) {
  uint64_t least = NumberIn(mount + "/" + file);
  for (; path.has_relative_path(); path = path.parent_path()) {
    least = std::min(least, NumberIn(mount + path.string() + "/" + file));
  }
  return least;
}

}  // namespace

uint64_t HostMemoryBytes(const std::string& root) {
  uint64_t least = MachineMemory(root);
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // ID:CONTROLLERS:PATH
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1), groups = root + "/sys/fs/cgroup";
    if (controllers.empty()) least = std::min(least, LeastLimit(groups, path, "memory.max"));
    if (controllers == "memory") {
      least = std::min(least, LeastLimit(groups + "/memory", path, "memory.limit_in_bytes"));
    }
  }
  return least;
}

}  // namespace choir
