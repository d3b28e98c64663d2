// Whose turn it is on a stream that takes one message at a time, while an owner thread gathers the
// next one. What was gathered during a write is due when that write ends, not when the owner
// happens to be woken by something else. Each call under the stream's lock.
#pragma once

#include <utility>

namespace choir {

class WriteTurn {
 public:
  // A message is ready. True: write it now. False: a write is under way, and its Done() will ask
  // for the message.
  bool Take() {
    due_ = writing_;
    return !std::exchange(writing_, true);
  }
  // The write has ended. True: a message was refused the turn meanwhile, and nothing else will
  // bring the owner to ask again.
  bool Done() {
    writing_ = false;
    return std::exchange(due_, false);
  }
  bool writing() const { return writing_; }

 private:
  bool writing_ = false;
  bool due_ = false;
};

}  // namespace choir
