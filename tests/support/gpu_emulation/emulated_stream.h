// A stream of the emulation. Of a card (emulated_device.h) its work waits until somebody waits for
// it, so that what the host does too early shows; without a card it is done at once.
#pragma once

#include <functional>
#include <vector>

#include "tests/support/gpu_emulation/emulated_block.h"

namespace choir::emulation {

class Card;

struct EmulatedStream {
  Order order = Order::kForward;  // in which the threads of a block take turns
  Card* card = nullptr;
  std::vector<std::function<void()>> pending;

  void Do(std::function<void()> work) {
    if (card == nullptr) return work();
    pending.push_back(std::move(work));
  }
};

// Native handles of streams without a card.
inline void* StreamInOrder(Order order) {
  static EmulatedStream streams[] = {{.order = Order::kForward, .card = nullptr, .pending = {}},
                                     {.order = Order::kBackward, .card = nullptr, .pending = {}},
                                     {.order = Order::kShuffled, .card = nullptr, .pending = {}}};
  return &streams[static_cast<size_t>(order)];
}

}  // namespace choir::emulation
