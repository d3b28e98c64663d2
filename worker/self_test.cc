#include "worker/self_test.h"

#include <cmath>

namespace choir {
namespace {

// Above every id that the sequence registry gives out.
constexpr uint64_t kFirstId = uint64_t{1} << 63;

}  // namespace

SequenceRequest SelfTestRun::NextLocked() {
  running_ = SequenceId(kFirstId + ++runs_);
  SequenceRequest request{.id = running_};
  // Any token will do; a few of them, so that attention has something to attend to.
  for (int64_t t = 0; t < 4; ++t) request.tokens.push_back(static_cast<int32_t>((t + 1) % vocab_));
  request.num_prompt = static_cast<int32_t>(request.tokens.size());
  request.sampling.temperature = 0;
  request.sampling.num_logprobs = 0;
  request.max_tokens = 1;
  return request;
}

void SelfTestRun::Start(Engine* engine) {
  SequenceRequest request;
  {
    std::lock_guard lock(mu_);
    request = NextLocked();
  }
  if (const Status taken = engine->Submit(std::move(request)); !taken.ok()) done_(taken);
}

void SelfTestRun::Forget() {
  std::lock_guard lock(mu_);
  running_ = {};
}

Status SelfTestRun::Judge(const SequenceOutput& update) {
  if (update.finish == Finish::kRefused) return Internal("the engine refuses it: {}", update.error);
  if (update.tokens.size() != 1 || update.logprobs.size() != 1) {
    return Internal("{} tokens instead of one", update.tokens.size());
  }
  const float logprob = update.logprobs[0].logprob;
  if (!std::isfinite(logprob)) {
    return Internal(
        "token {} has the log probability {}; the weights are damaged or do not fit the dtype",
        update.tokens[0], logprob);
  }
  return absl::OkStatus();
}

void SelfTestRun::Look(StepOutput* output, Engine* engine) {
  bool over = false, again = false;
  Status result;
  SequenceRequest request;
  {
    std::lock_guard lock(mu_);
    std::erase_if(output->updates, [&](const SequenceOutput& update) {
      if (update.id.value() < kFirstId) return false;
      if (update.id != running_ || update.finish == Finish::kNone) return true;
      running_ = {};
      again = update.finish == Finish::kLost;  // overtaken by the border of an epoch
      over = !again && update.finish != Finish::kCancelled;
      if (over) result = Judge(update);
      return true;
    });
    if (again) request = NextLocked();
  }
  if (again) result = engine->Submit(std::move(request));
  if (over || !result.ok()) done_(result);
}

}  // namespace choir
