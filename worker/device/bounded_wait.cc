#include "worker/device/bounded_wait.h"

#include <cstdlib>
#include <thread>

#include "common/base/log.h"

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
    if (guard != nullptr && guard->look != nullptr && guard->said.ok()) {
      guard->said = (*guard->look)();
    }
    if (bound_.clock->Now() - begin > bound_.limit) EndProcess();
    std::this_thread::yield();  // no nap, which a step would be late by
  }
}

void BoundedWait::EndProcess() const {
  CHOIR_LOG(error,
            "the device failed, this process ends to be started again: {}: a step or a copy has "
            "not ended in {:g} s (--device-timeout)",
            name_, Seconds(bound_.limit));
  spdlog::default_logger()->flush();
  std::_Exit(1);
}

}  // namespace choir
