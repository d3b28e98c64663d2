#include "worker/device/host_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

class HostMemory : public ::testing::Test {
 protected:
  HostMemory() {
    Write("/proc/meminfo", "MemFree: 1 kB\nMemTotal:       1000 kB\nMemAvailable: 2 kB\n");
  }
  void Write(const std::string& file, const std::string& text) {
    const std::filesystem::path path = dir_.path() + file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  uint64_t Bytes() { return HostMemoryBytes(dir_.path()); }

 private:
  const TempDir dir_;
};

TEST_F(HostMemory, IsTheMachinesWithoutALimit) {
  EXPECT_EQ(Bytes(), 1'024'000u);
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_EQ(Bytes(), 1'024'000u);
}

TEST_F(HostMemory, IsTheLeastLimitOfItsGroupAndThoseAbove) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "5000\n");
  EXPECT_EQ(Bytes(), 5000u);
  Write("/sys/fs/cgroup/a/memory.max", "4000\n");
  EXPECT_EQ(Bytes(), 4000u);
  Write("/sys/fs/cgroup/memory.max", "3000\n");  // of a container, whose path is not in its mount
  EXPECT_EQ(Bytes(), 3000u);
  Write("/sys/fs/cgroup/memory.max", "2048000\n");  // more than the machine has
  EXPECT_EQ(Bytes(), 4000u);
}

TEST_F(HostMemory, KnowsTheFirstVersionOfCgroups) {
  Write("/proc/self/cgroup", "7:cpu,cpuacct:/x\n4:memory:/x\n");
  Write("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "6000\n");
  EXPECT_EQ(Bytes(), 6000u);
}

TEST_F(HostMemory, OfThisMachineIsSomething) {
  EXPECT_GT(HostMemoryBytes(), uint64_t{1} << 20);
  EXPECT_LT(HostMemoryBytes(), uint64_t{1} << 60);
}

}  // namespace
}  // namespace choir
