// A stream of the emulation. Of a card (emulated_device.h) its work waits until somebody waits for
// it or asks for an event behind it, so that what the host does too early shows; without a card it
// is done at once. Work may have to wait itself: for another stream, or for another rank.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "tests/support/gpu_emulation/emulated_block.h"

namespace choir::emulation {

class Card;

struct EmulatedWork {
  std::function<bool()> ready;  // empty: always. Touches no memory of the card
  std::function<void()> run;
};

using EmulatedGraph = std::vector<EmulatedWork>;

struct EmulatedStream {
  Order order = Order::kForward;  // in which the threads of a block take turns
  Card* card = nullptr;
  std::deque<EmulatedWork> pending;
  uint64_t enqueued = 0, done = 0;
  bool running = false;
  std::unique_ptr<EmulatedGraph> recording = nullptr;  // while a graph is made: takes the work
  bool spoiled = false;  // something was done meanwhile that no graph may have

  void Do(std::function<void()> work) {
    if (card == nullptr) return work();
    DoWhen({}, std::move(work));
  }
  void DoWhen(std::function<bool()> ready, std::function<void()> work) {
    if (recording != nullptr) {
      recording->push_back({std::move(ready), std::move(work)});
      return;
    }
    pending.push_back({std::move(ready), std::move(work)});
    ++enqueued;
  }
  void Drop() {
    pending.clear();
    done = enqueued;
  }
};

// Does what can be done now, in order, of the first `until` pieces of work. Of the thread that uses
// the card.
void Progress(EmulatedStream& stream, uint64_t until = UINT64_MAX);

// Native handles of streams without a card.
inline void* StreamInOrder(Order order) {
  static EmulatedStream streams[] = {
      {.order = Order::kForward}, {.order = Order::kBackward}, {.order = Order::kShuffled}};
  return &streams[static_cast<size_t>(order)];
}

}  // namespace choir::emulation
