#pragma once

#include "worker/comm/device_collectives.h"
#include "worker/device/device.h"

namespace choir {

// The device's waits look at the link meanwhile (Device::Guard). What a dead communicator has left
// on the device is over before rooms are used again. Private to worker/model; owner thread only.
class GuardedLink {
 public:
  GuardedLink(Device* device, DeviceCollectives* link) : device_(*device), link_(*link) {
    device_.Guard([this] { return link_.Look(); });
  }
  ~GuardedLink() {
    device_.Guard({});
    link_.Leave();
  }
  GuardedLink(const GuardedLink&) = delete;
  GuardedLink& operator=(const GuardedLink&) = delete;

 private:
  Device& device_;
  DeviceCollectives& link_;
};

}  // namespace choir
