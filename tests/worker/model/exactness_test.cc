// The bits of a logit depend on its own sequence only: not on chunks, company in the batch, ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <mutex>
#include <random>

#include "tests/golden/golden.h"
#include "tests/support/local_group.h"

namespace choir {
namespace {

struct Case {
  std::string checkpoint;
  std::string dtype;
  std::string kernels;  // a CPU path, or "reference"
};

std::unique_ptr<KernelSet> KernelsOf(const std::string& name) {
  if (name == "reference") return MakeReferenceKernels();
  auto kernels = MakeCpuKernels(name);
  EXPECT_TRUE(kernels.ok()) << kernels.status();
  return std::move(kernels).value();
}

class Exactness : public testing::TestWithParam<Case> {
 protected:
  using Row = std::vector<float>;

  std::vector<Row> RowsOf(const std::vector<float>& logits) const {
    std::vector<Row> rows;
    const auto vocab = static_cast<int64_t>(checkpoint_.vocab);
    for (auto it = logits.begin(); it != logits.end(); it += vocab)
      rows.emplace_back(it, it + vocab);
    return rows;
  }
  // Alone, in one pass, on one rank.
  std::vector<Row> Plain(const std::vector<int32_t>& tokens) const {
    std::vector<Row> rows;
    RunGroup(loaded_, *kernels_, 1, options_, [&](int, ModelRunner& runner) {
      rows = RowsOf(StepOrFail(runner, {{.tokens = tokens}}));
    });
    return rows;
  }

  const golden::Checkpoint checkpoint_ = golden::Load(GetParam().checkpoint);
  const std::unique_ptr<KernelSet> kernels_ = KernelsOf(GetParam().kernels);
  const std::shared_ptr<const LoadedModel> loaded_ =
      LoadOrFail(checkpoint_.dir, GetParam().dtype, *kernels_);
  const std::vector<int32_t> first_ = checkpoint_.prompts[0].ids,
                             second_ = checkpoint_.prompts[1].ids;
  const RunnerOptions options_{
      .step_tokens = 128, .positions_max = 128, .block_tokens = 8, .sequences = 3};
};

TEST_P(Exactness, ChunksGiveTheBitsOfOnePass) {
  const std::vector<Row> plain = Plain(first_);
  for (const size_t chunk : {size_t{1}, size_t{2}, size_t{7}, size_t{16}, size_t{33}}) {
    RunGroup(loaded_, *kernels_, 1, options_, [&](int, ModelRunner& runner) {
      for (size_t at = 0; at < first_.size(); at += chunk) {
        const std::span<const int32_t> part =
            std::span(first_).subspan(at, std::min(chunk, first_.size() - at));
        const std::vector<Row> rows = RowsOf(
            StepOrFail(runner, {{.tokens = part, .first_position = static_cast<int32_t>(at)}}));
        for (size_t i = 0; i < rows.size(); ++i)
          ASSERT_EQ(rows[i], plain[at + i]) << chunk << " " << at + i;
      }
    });
  }
}

TEST_P(Exactness, CompanyInTheBatchChangesNothing) {
  const std::vector<Row> first = Plain(first_), second = Plain(second_);
  RunGroup(loaded_, *kernels_, 1, options_, [&](int, ModelRunner& runner) {
    // The first sequence's head, then its rest between two copies of the second.
    const size_t head = first_.size() / 2;
    StepOrFail(runner, {{.sequence = 1, .tokens = std::span(first_).first(head)}});
    const std::vector<Row> rows =
        RowsOf(StepOrFail(runner, {{.sequence = 2, .tokens = second_},
                                   {.sequence = 1,
                                    .tokens = std::span(first_).subspan(head),
                                    .first_position = static_cast<int32_t>(head)},
                                   {.sequence = 0, .tokens = second_}}));
    for (size_t i = 0; i < second.size(); ++i) {
      ASSERT_EQ(rows[i], second[i]) << i;
      ASSERT_EQ(rows[second.size() + first_.size() - head + i], second[i]) << i;
    }
    for (size_t i = head; i < first.size(); ++i)
      ASSERT_EQ(rows[second.size() + i - head], first[i]) << i;
  });
}

TEST_P(Exactness, RanksAndThreadsChangeNothing) {
  const std::vector<Row> first = Plain(first_), second = Plain(second_);
  for (const int ranks : {2, 3, 4}) {
    RunnerOptions options = options_;
    options.num_threads = ranks == 2 ? 3 : 1;
    RunGroup(loaded_, *kernels_, ranks, options, [&](int rank, ModelRunner& runner) {
      // Rank 0 and the last have a sequence each; those between only help.
      std::vector<ModelRunner::Rows> own;
      if (rank == 0) own.push_back({.tokens = first_});
      if (rank == ranks - 1) own.push_back({.tokens = second_});
      const std::vector<Row> rows = RowsOf(StepOrFail(runner, own));
      ASSERT_EQ(rows, rank == 0 ? first : rank == ranks - 1 ? second : std::vector<Row>()) << rank;
      // All idle, then one token on one rank.
      StepOrFail(runner, {});
      own.clear();
      if (rank == 1) own.push_back({.tokens = std::span(first_).first(1)});
      const std::vector<Row> one = RowsOf(StepOrFail(runner, own));
      if (rank == 1) {
        ASSERT_EQ(one.at(0), first[0]);
      }
    });
  }
}

// Copies anywhere, in each layer elsewhere.
std::vector<ExpertPlacement> SomePlacement(const ModelInfo& info, int ranks, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<ExpertPlacement> layers;
  for (int32_t l = 0; l < info.expert_layers; ++l) {
    std::vector<std::vector<int32_t>> experts_of(static_cast<size_t>(ranks));
    for (int32_t e = 0; e < info.num_experts; ++e) {
      const size_t always = random() % experts_of.size();
      for (size_t r = 0; r < experts_of.size(); ++r) {
        if (r == always || random() % 3 == 0) experts_of[r].push_back(e);
      }
    }
    layers.emplace_back(info.num_experts, std::move(experts_of));
  }
  return layers;
}

TEST_P(Exactness, PlacesOfExpertsAndTheirCopiesChangeNothing) {
  if (loaded_->info().num_experts == 0) return;
  const std::vector<Row> first = Plain(first_), second = Plain(second_);
  for (const int ranks : {2, 3}) {
    RunnerOptions options = options_;
    options.placement = SomePlacement(loaded_->info(), ranks, static_cast<uint64_t>(ranks));
    RunGroup(loaded_, *kernels_, ranks, options, [&](int rank, ModelRunner& runner) {
      const std::vector<int32_t>& own = rank == 0 ? first_ : second_;
      const std::vector<Row> rows = RowsOf(StepOrFail(runner, {{.tokens = own}}));
      ASSERT_EQ(rows, rank == 0 ? first : second) << rank;
    });
  }
}

TEST_P(Exactness, EveryExpertRowIsCountedOnce) {
  std::vector<uint64_t> total;
  std::mutex mutex;
  RunGroup(loaded_, *kernels_, 3, options_, [&](int rank, ModelRunner& runner) {
    StepOrFail(runner, rank == 0 ? std::vector<ModelRunner::Rows>{{.tokens = first_}}
                                 : std::vector<ModelRunner::Rows>());
    const ExpertCounts& counts = runner.model().expert_counts();
    const std::lock_guard lock(mutex);
    total.resize(counts.rows.size());
    for (size_t i = 0; i < total.size(); ++i) total[i] += counts.rows[i];
    EXPECT_EQ(counts.layers.size(), checkpoint_.prompts[0].experts.size());
  });
  std::vector<uint64_t> want(total.size(), 0);  // by layer and expert
  const std::vector<golden::LayerRoutes>& routes = checkpoint_.prompts[0].experts;
  for (size_t l = 0; l < routes.size(); ++l) {
    for (const std::vector<int32_t>& ids : routes[l].ids) {
      for (const int32_t id : ids) {
        ++want[l * (want.size() / routes.size()) + static_cast<size_t>(id)];
      }
    }
  }
  if (GetParam().dtype == "f32") {
    EXPECT_EQ(total, want);
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& name : golden::Names()) {
    cases.push_back({name, "f32", "reference"});
    for (const std::string& path : CpuPaths()) {
      for (const char* dtype : {"f32", "bf16"}) cases.push_back({name, dtype, path});
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, Exactness, testing::ValuesIn(Cases()), [](const auto& info) {
  std::string name = info.param.checkpoint + "_" + info.param.dtype + "_" + info.param.kernels;
  std::erase_if(
      name, [](char c) { return c != '_' && std::isalnum(static_cast<unsigned char>(c)) == 0; });
  return name;
});

}  // namespace
}  // namespace choir
