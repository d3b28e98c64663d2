// Errors of starts that the CUDA runtime does not keep: what the driver refused before there was a
// launch, and errors that a later call of the runtime would put its own in place of.
// DeviceTable::poll finds them, on any thread, until DeviceTable::forget. Static text.
#pragma once

#include <atomic>

namespace choir::cuda {

inline std::atomic<const char*> launch_error{nullptr};

// The first one stays.
inline void KeepLaunchError(const char* error) {
  const char* none = nullptr;
  (void)launch_error.compare_exchange_strong(none, error);
}

}  // namespace choir::cuda
