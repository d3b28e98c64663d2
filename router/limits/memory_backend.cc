#include <utility>

#include "router/limits/limit_backend.h"
#include "router/limits/limit_book.h"

namespace choir {
namespace {

class MemoryBackend final : public LimitBackend {
 public:
  explicit MemoryBackend(const Clock* clock) : clock_(clock) {}

  void Call(LimitCall call, Done done) override { done(book_.Apply(call, NowUs())); }
  ScopeReading Peek(const LimitScope& scope) override { return book_.Read(scope, NowUs()); }
  LimitBackendStatus status() const override { return {.store = "memory", .scopes = book_.size()}; }

 private:
  double NowUs() const {
    return std::chrono::duration<double, std::micro>(clock_->Now().time_since_epoch()).count();
  }

  const Clock* const clock_;
  LimitBook book_;
};

}  // namespace

std::unique_ptr<LimitBackend> MakeMemoryLimitBackend(const Clock* clock) {
  return std::make_unique<MemoryBackend>(clock);
}

}  // namespace choir
