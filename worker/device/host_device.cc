#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "worker/device/device.h"

namespace choir {
namespace {

class Host final : public Device {
 public:
  std::string Name() const override { return "cpu"; }
  bool ReadsHostMemory() const override { return true; }
  Status Reserve(size_t) override { return {}; }

  // Zeroed; costs nothing until it is touched.
  StatusOr<DeviceBuffer> Allocate(size_t bytes) override {
    const size_t mapped = std::max<size_t>(bytes, 1);
    void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      return ResourceExhausted("memory: {} bytes could not be had: {}", bytes,
                               std::strerror(errno));
    }
    return DeviceBuffer({static_cast<std::byte*>(p), [mapped](std::byte* m) { munmap(m, mapped); }},
                        bytes);
  }
  StatusOr<DeviceBuffer> AllocateHost(size_t bytes) override { return Allocate(bytes); }
  void Copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
};

}  // namespace

Device& HostDevice() {
  static Host device;
  return device;
}

}  // namespace choir
