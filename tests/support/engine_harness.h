// Runs engines on threads of their own and collects what they say. Tests wait for events, never for
// time.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "tests/support/fake_model.h"
#include "worker/comm/local_collectives.h"
#include "worker/engine/engine.h"

namespace choir {

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<SampledLogprob> logprobs;
  Finish finish = Finish::kNone;
  std::string error;
  int32_t cached_tokens = 0;
  int endings = 0;
  int updates_after_the_end = 0;
};

class EngineHarness {
 public:
  explicit EngineHarness(const EngineOptions& options, const FakeModelOptions& model = {},
                         int num_ranks = 1, FakeModel::Hook hook = {}) {
    auto made =
        Engine::MakeWithModel(options, std::make_unique<FakeModel>(model, std::move(hook)), nullptr,
                              num_ranks, [this](StepOutput output) { Take(std::move(output)); });
    CHOIR_CHECK(made.ok());
    engine_ = std::move(*made);
    engine_->OnEpochFailed([this](uint64_t generation, Status status) {
      std::lock_guard lock(mu_);
      failures_.emplace_back(generation, std::move(status));
      changed_.notify_all();
    });
  }
  ~EngineHarness() { Stop(); }

  Engine& engine() { return *engine_; }
  void Start() {
    thread_ = std::jthread([this] { engine_->Run(); });
  }
  // With a one-rank epoch.
  void StartAlone() {
    engine_->SetEpoch(MakeSingleCollectives(1));
    Start();
  }
  void Stop() {
    engine_->Stop();
    if (thread_.joinable()) thread_.join();
  }

  Status Submit(SequenceRequest request) { return engine_->Submit(std::move(request)); }
  // Holds the engine once sequence `id` has `tokens` tokens, until Release. Call before Submit.
  void HoldAt(uint64_t id, size_t tokens) {
    std::lock_guard lock(mu_);
    hold_id_ = id;
    hold_tokens_ = tokens;
  }
  void Release() {
    std::lock_guard lock(mu_);
    hold_id_ = 0;
    changed_.notify_all();
  }
  // Until the sequence has ended.
  Answer Wait(uint64_t id) {
    return WaitFor(id, [](const Answer& a) { return a.finish != Finish::kNone; });
  }
  // Until it has `count` tokens, or has ended.
  Answer WaitForTokens(uint64_t id, size_t count) {
    return WaitFor(id, [count](const Answer& a) {
      return a.tokens.size() >= count || a.finish != Finish::kNone;
    });
  }
  std::pair<uint64_t, Status> WaitForFailure(size_t count = 1) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return failures_.size() >= count; });
    return failures_[count - 1];
  }
  Answer Now(uint64_t id) {
    std::lock_guard lock(mu_);
    return answers_[id];
  }
  size_t num_failures() {
    std::lock_guard lock(mu_);
    return failures_.size();
  }

 private:
  template <typename Predicate>
  Answer WaitFor(uint64_t id, Predicate predicate) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return predicate(answers_[id]); });
    return answers_[id];
  }

  void Take(StepOutput output) {
    std::unique_lock lock(mu_);
    for (SequenceOutput& u : output.updates) {
      Answer& a = answers_[u.id.value()];
      if (a.endings > 0) ++a.updates_after_the_end;
      a.tokens.insert(a.tokens.end(), u.tokens.begin(), u.tokens.end());
      for (SampledLogprob& l : u.logprobs) a.logprobs.push_back(std::move(l));
      a.error = u.error;
      a.cached_tokens = std::max(a.cached_tokens, u.cached_tokens);
      a.finish = u.finish;
      if (u.finish != Finish::kNone) ++a.endings;
    }
    changed_.notify_all();
    // The owner thread stands still here, so a test can act on a sequence that cannot end
    // meanwhile.
    changed_.wait(lock,
                  [&] { return hold_id_ == 0 || answers_[hold_id_].tokens.size() < hold_tokens_; });
  }

  std::mutex mu_;
  std::condition_variable changed_;
  uint64_t hold_id_ = 0;  // 0: nobody is held
  size_t hold_tokens_ = 0;
  std::map<uint64_t, Answer> answers_;
  std::vector<std::pair<uint64_t, Status>> failures_;
  std::unique_ptr<Engine> engine_;
  std::jthread thread_;
};

// `num_tokens` prompt tokens that depend on the id.
inline SequenceRequest MakeRequest(uint64_t id, int32_t num_tokens, int32_t max_tokens,
                                   const FakeModelOptions& options = {}) {
  SequenceRequest request;
  request.id = SequenceId(id);
  for (int32_t i = 0; i < num_tokens; ++i) {
    const uint64_t h = FakeHash(id, static_cast<uint64_t>(i));
    request.tokens.push_back(static_cast<int32_t>(h % static_cast<uint64_t>(options.vocab)));
  }
  request.num_prompt = num_tokens;
  request.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

// The request again, with what was answered so far, as a router replays it.
inline SequenceRequest ReplayOf(SequenceRequest request, uint64_t id,
                                const std::vector<int32_t>& committed) {
  request.id = SequenceId(id);
  request.tokens.insert(request.tokens.end(), committed.begin(), committed.end());
  return request;
}

}  // namespace choir
