// A model on N ranks that are threads of the test: each rank steps its own rows, all together.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "tests/support/run_ranks.h"
#include "worker/comm/local_collectives.h"
#include "worker/model/model_runner.h"

namespace choir {

inline std::shared_ptr<const LoadedModel> LoadOrFail(const std::string& dir,
                                                     const std::string& dtype,
                                                     const KernelSet& kernels) {
  StatusOr<std::shared_ptr<const LoadedModel>> loaded =
      LoadModel({.model_dir = dir, .dtype = dtype}, kernels);
  EXPECT_TRUE(loaded.ok()) << dir << ": " << loaded.status();
  return loaded.ok() ? *loaded : nullptr;
}

// Calls fn(rank, runner) for each rank on its own thread. fn must step equally often on all of
// them.
inline void RunGroup(std::shared_ptr<const LoadedModel> loaded, const KernelSet& kernels,
                     int num_ranks, const RunnerOptions& options,
                     const std::function<void(int rank, ModelRunner& runner)>& fn) {
  ASSERT_NE(loaded, nullptr);
  auto ranks = MakeLocalCollectives(num_ranks, 1, {});
  RunRanks(ranks, [&](Collectives& collectives) {
    auto runner = ModelRunner::Make(loaded, &kernels, &collectives, options);
    ASSERT_TRUE(runner.ok()) << runner.status();
    fn(collectives.rank(), **runner);
  });
}

// The logits of `rows`, [rows, vocab]; records a failure and returns nothing when the step fails.
inline std::vector<float> StepOrFail(ModelRunner& runner, std::vector<ModelRunner::Rows> rows) {
  StatusOr<std::span<const float>> logits = runner.Step(rows);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? std::vector<float>(logits->begin(), logits->end()) : std::vector<float>();
}

}  // namespace choir
