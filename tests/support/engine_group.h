// Engines of a fake model as ranks of a group, each on a thread of its own.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "tests/support/engine_harness.h"
#include "tests/support/faulty_collectives.h"

namespace choir {

inline EngineOptions SmallEngineOptions() {
  EngineOptions options;
  options.step_tokens = 16;
  options.sequences_max = 8;
  options.block_tokens = 4;
  options.kv_bytes = 16 * 4 * 400;
  return options;
}

class EngineGroup {
 public:
  EngineGroup(int num_ranks, const FakeModelOptions& model,
              const EngineOptions& options = SmallEngineOptions()) {
    for (int r = 0; r < num_ranks; ++r) {
      ranks_.push_back(std::make_unique<EngineHarness>(options, model, num_ranks));
    }
  }
  ~EngineGroup() {
    for (auto& rank : ranks_) rank->engine().Stop();
  }

  EngineHarness& rank(size_t r) { return *ranks_[r]; }
  size_t size() const { return ranks_.size(); }
  void Start() {
    for (auto& rank : ranks_) rank->Start();
  }
  void SetEpoch(std::vector<std::unique_ptr<Collectives>> collectives) {
    for (size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r]->engine().SetEpoch(std::move(collectives[r]));
    }
  }
  void SetEpoch(uint64_t generation) {
    SetEpoch(MakeLocalCollectives(static_cast<int>(size()), generation, {}));
  }
  // The fail_at-th collective call of rank `at` kills the epoch.
  void SetFaultyEpoch(uint64_t generation, size_t at, int64_t fail_at) {
    auto collectives = MakeLocalCollectives(static_cast<int>(size()), generation, {});
    collectives[at] =
        std::make_unique<FaultyCollectives>(std::move(collectives[at]), Fault{.fail_at = fail_at});
    SetEpoch(std::move(collectives));
  }

 private:
  std::vector<std::unique_ptr<EngineHarness>> ranks_;
};

}  // namespace choir
