// Cards without a GPU: the device part of a CUDA module over memory of this process that nobody may
// touch but kernels and copies while they run. Elsewhere a read or a write of it is a segmentation
// fault, so a test that passes has proven that the host keeps off. Work of a stream begins when
// somebody waits for it or asks for an event behind it; fresh memory is NaN in every dtype. Each
// card is used by one thread at a time, as a device is, but for streams that another has alone.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_table.h"

namespace choir::emulation {

inline constexpr int kCards = 8;

// Streams of it are for the emulated kernels. A graph is the work that was enqueued while it was
// made, and running it does that again; a value of the host that was taken over then is old by now,
// which shows as a wrong result. An op that uploads host values, or a wait, spoils it.
const cuda::DeviceTable& EmulatedDevices();

// What is free on a card that nobody uses. Back to 64 GiB with 0.
void SetCardMemory(int card, uint64_t bytes);
int CurrentCard();          // of this thread; -1: none
int64_t EmulatedHandles();  // streams and events of all cards that are not yet given back
// From now on the card's waits and polls give this error; null: none. Static text.
void FailCard(int card, const char* error);
// From now on the card's streams do nothing and say nothing, as those with a kernel that never
// ends.
void HangCard(int card);
// Every card does so after its wait number `waits`, counted from now; 0: never.
void HangCardsAfter(int64_t waits);
// As a start that was refused: this thread's polls give the error until it is forgotten, and the
// card goes on. Static text.
void LeaveLaunchError(const char* error);
// As DeviceTable::allow_early_starts has it; here nothing starts early.
bool EarlyStartsAllowed();
int GraphsApart();  // that were begun while they were not
// From now on no graph can be made on the card, with this error; null: it can. Static text.
void FailGraphs(int card, const char* error);
// How often anybody waited for the card's streams since the start.
int64_t WaitsOf(int card);
// Every card gives the error from its wait number `waits` on, counted from now; 0: never.
void FailCardsAfter(int64_t waits, const char* error);

}  // namespace choir::emulation
