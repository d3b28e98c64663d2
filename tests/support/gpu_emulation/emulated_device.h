// Cards without a GPU: the device part of a CUDA module over memory of this process that nobody may
// touch but kernels and copies while they run. Elsewhere a read or a write of it is a segmentation
// fault, so a test that passes has proven that the host keeps off. Work of a stream begins when
// somebody waits for it; fresh memory is NaN in every dtype. Each card is used by one thread at a
// time, as a device is.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_table.h"

namespace choir::emulation {

inline constexpr int kCards = 8;

// Streams of it are for the emulated kernels. Events and graphs: none.
const cuda::DeviceTable& EmulatedDevices();

// What is free on a card that nobody uses. Back to 64 GiB with 0.
void SetCardMemory(int card, uint64_t bytes);
// From now on the card's waits and polls give this error; null: none. Static text.
void FailCard(int card, const char* error);
// Every card gives the error from its wait number `waits` on, counted from now; 0: never.
void FailCardsAfter(int64_t waits, const char* error);

}  // namespace choir::emulation
