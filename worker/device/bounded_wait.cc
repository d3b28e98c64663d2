#include "worker/device/bounded_wait.h"

#include <fmt/format.h>

#include <thread>

#include "common/base/restart.h"

namespace choir {

const char* BoundedWait::For(void* stream, void* event, WaitGuard* guard) const {
  const char* error = table_.record(event, stream);
  if (error == nullptr) error = Poll(event, guard);
  // Does not wait: all is done, or the card does nothing any more.
  const char* at_end = table_.wait_stream(stream);
  return at_end != nullptr ? at_end : error;
}

const char* BoundedWait::Poll(void* event, WaitGuard* guard) const {
  const MonoTime begin = bound_.clock->Now();
  for (bool done = false;;) {
    if (const char* error = table_.is_done(event, &done)) return error;
    if (done) return nullptr;
    if (bound_.clock->Now() - begin > bound_.limit) EndProcess();
    if (guard != nullptr && guard->look != nullptr && guard->said.ok()) {
      guard->said = (*guard->look)();  // may take long, and end what is waited for
    }
    std::this_thread::yield();  // no nap, which a step would be late by
  }
}

void BoundedWait::EndProcess() const {
  EndForRestart(fmt::format("{}: a step or a copy has not ended in {:g} s (--device-timeout)",
                            name_, Seconds(bound_.limit)));
}

}  // namespace choir
