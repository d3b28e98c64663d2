// A device without memory that counts what is asked of it: how much a model and its engine would
// take is known by making them with it, before anything is loaded. What it allocates has a size and
// an address where nothing is.
#pragma once

#include <memory>
#include <string>

#include "worker/device/device.h"

namespace choir {

inline constexpr size_t kDeviceAlign = 256;  // of what Allocate of a GPU's device returns
constexpr size_t AlignedBytes(size_t bytes) {
  return (bytes + kDeviceAlign - 1) / kDeviceAlign * kDeviceAlign;
}

class MeasuringDevice final : public Device {
 public:
  std::string Name() const override { return "none"; }
  bool ReadsHostMemory() const override { return false; }
  Status Reserve(size_t) override { return {}; }
  void LeaveForNccl(size_t bytes) override { nccl_bytes_ = bytes; }
  StatusOr<DeviceBuffer> Allocate(size_t bytes) override {
    bytes_ += AlignedBytes(bytes);
    return Nowhere(bytes);
  }
  StatusOr<DeviceBuffer> AllocateHost(size_t bytes) override { return Nowhere(bytes); }
  void Copy(void*, const void*, size_t) override { CHOIR_CHECK(false); }
  StatusOr<std::unique_ptr<DeviceLane>> MakeLane() override { return nullptr; }

  size_t bytes() const { return bytes_; }
  size_t nccl_bytes() const { return nccl_bytes_; }

 private:
  // Not null, for views of null are empty ones.
  static DeviceBuffer Nowhere(size_t bytes) {
    return DeviceBuffer({reinterpret_cast<std::byte*>(kDeviceAlign), [](std::byte*) {}}, bytes);
  }

  size_t bytes_ = 0, nccl_bytes_ = 0;
};

}  // namespace choir
