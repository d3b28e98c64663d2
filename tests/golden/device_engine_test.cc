// The whole engine on a device: tokens are the same on any number of ranks, in a batch or alone,
// in chunks, and whether the device samples them or the host; and what happens when the device
// fails.
#include <gmock/gmock.h>

#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "tests/golden/collector.h"
#include "tests/golden/golden.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/gpu_group.h"
#include "tests/support/gpu_emulation/gpu_tables.h"
#include "worker/engine/engine.h"

namespace choir {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

constexpr int32_t kTokens = 3;

// One rank's engine on a device of its own. Made and destroyed by one thread.
class DeviceEngine {
 public:
  DeviceEngine(const GpuGroup& group, int rank, const EngineOptions& options, Engine::Sink sink)
      : gpu_(MakeGpuRank(group.table, rank)) {
    const auto loaded = LoadOnGpu(group, gpu_, rank, [&](auto sizes) {
      return Engine::BytesBeside(options, std::move(sizes), gpu_.kernels.get(), group.ranks);
    });
    // What was reserved is what is needed, to the byte: more is not there.
    auto made = Engine::Make(options, loaded, gpu_.kernels.get(), group.ranks, std::move(sink));
    CHOIR_CHECK(made.ok());
    EXPECT_FALSE(gpu_.device->Allocate(1).ok());
    engine_ = std::move(made).value();
  }
  ~DeviceEngine() {
    engine_->Stop();
    if (thread_.joinable()) thread_.join();
  }
  void Run(std::shared_ptr<Collectives> epoch) {
    engine_->SetEpoch(std::move(epoch));
    thread_ = std::jthread([this] { engine_->Run(); });
  }
  Engine& engine() { return *engine_; }

 private:
  const GpuRank gpu_;
  std::unique_ptr<Engine> engine_;
  std::jthread thread_;
};

SequenceRequest RequestOf(const golden::Checkpoint& checkpoint, uint64_t id, size_t prompt) {
  const std::vector<int32_t>& ids = checkpoint.prompts[prompt].ids;
  SequenceRequest request;
  request.id = SequenceId(id);
  request.tokens.assign(ids.begin(),
                        ids.begin() + static_cast<int64_t>(std::min<size_t>(ids.size(), 9)));
  request.num_prompt = static_cast<int32_t>(request.tokens.size());
  request.max_tokens = kTokens;
  request.sampling.temperature = 0.9;
  request.sampling.top_p = 0.95;
  request.sampling.seed = 7 + prompt;
  return request;
}

EngineOptions SmallEngine(int64_t step_tokens) {
  EngineOptions options;
  options.step_tokens = step_tokens;
  options.sequences_max = std::min<int64_t>(step_tokens, 8);
  options.block_tokens = 8;
  options.kv_bytes = uint64_t{1} << 20;
  options.context_length = 64;
  return options;
}

class DeviceEngineTest : public testing::TestWithParam<std::string> {};

// How an engine is run; rows by NCCL are for emulated cards.
struct Way {
  int ranks = 1;
  int64_t step_tokens = 32;
  bool together = true;
  bool nccl = false;
  int64_t micro_batch_rows = 0;
  uint64_t slot_output_bytes = 0;
  HostExpertOptions host;
  std::string table = GpuTableNames().back();

  bool emulated() const { return table.ends_with("_emulated"); }
};

// Prompts 0 and 1, each with and without log probabilities: the former are sampled by the host.
std::map<uint64_t, std::vector<int32_t>> Generate(const std::string& checkpoint_name,
                                                  const Way& way) {
  const golden::Checkpoint checkpoint = golden::Load(checkpoint_name);
  const GpuGroup group{.model_dir = checkpoint.dir,
                       .dtype = "bf16",
                       .table = way.table,
                       .ranks = way.ranks,
                       .nccl = way.nccl,
                       .host_experts = way.host};
  EngineOptions options = SmallEngine(way.step_tokens);
  if (way.nccl) options.row_path = RowPath::kDevice;
  options.slots = {.rows = 4, .output_bytes = way.slot_output_bytes};  // of decode steps
  options.micro_batch_rows = way.micro_batch_rows;
  Collector collector;
  std::vector<std::unique_ptr<DeviceEngine>> engines;
  auto collectives = MakeGpuCollectives(group);
  for (int r = 0; r < way.ranks; ++r) {
    engines.push_back(std::make_unique<DeviceEngine>(
        group, r, options, [&](const StepOutput& output) { collector.Take(output); }));
  }
  for (size_t r = 0; r < engines.size(); ++r) engines[r]->Run(std::move(collectives[r]));
  for (uint64_t id = 0; id < 4; ++id) {
    SequenceRequest request = RequestOf(checkpoint, id, id / 2);
    request.sampling.num_logprobs = id % 2 == 0 ? -1 : 2;
    CHOIR_CHECK(engines[id % engines.size()]->engine().Submit(std::move(request)).ok());
    if (!way.together) {
      EXPECT_EQ(collector.Wait(id), Finish::kLength);
    }
  }
  for (uint64_t id = 0; id < 4; ++id) EXPECT_EQ(collector.Wait(id), Finish::kLength);
  engines.clear();
  return collector.tokens();
}

TEST_P(DeviceEngineTest, GivesTheSameTokensHoweverItIsRun) {
  const auto alone = Generate(GetParam(), {.together = false});
  ASSERT_EQ(alone.size(), 4u);
  for (const auto& [id, tokens] : alone) EXPECT_EQ(tokens.size(), size_t{kTokens}) << id;
  EXPECT_EQ(alone.at(0), alone.at(1)) << "sampled by the device, and by the host";
  EXPECT_EQ(alone.at(2), alone.at(3)) << "sampled by the device, and by the host";
  EXPECT_EQ(Generate(GetParam(), {}), alone) << "in a batch";
  EXPECT_EQ(Generate(GetParam(), {.step_tokens = 5}), alone) << "in chunks";
  EXPECT_EQ(Generate(GetParam(), {.ranks = 2}), alone) << "on 2 ranks";
  EXPECT_EQ(Generate(GetParam(), {.ranks = 4}), alone) << "on 4 ranks";
  if (!Way().emulated()) return;
  EXPECT_EQ(Generate(GetParam(), {.ranks = 2, .nccl = true}), alone) << "on 2 ranks by NCCL";
  EXPECT_EQ(Generate(GetParam(), {.ranks = 2, .nccl = true, .micro_batch_rows = 5}), alone)
      << "in micro-batches";
  for (const int ranks : {2, 3}) {
    EXPECT_EQ(Generate(GetParam(), {.ranks = ranks, .nccl = true, .slot_output_bytes = 1 << 20}),
              alone)
        << "planned by the cards of " << ranks << " ranks";
  }
}

struct MixedResult {
  std::map<uint64_t, std::vector<int32_t>> tokens;
  EngineStats stats;
  int64_t waits = 0, steps = 0;  // of the host for the card in so many steps, behind the first one
};

// The GPU's where there is one; emulated tensor cores would take twice as long for the same.
std::string CheapTable() {
  const std::vector<std::string> names = GpuTableNames();
  return names.back().ends_with("_emulated") ? names.front() : names.back();
}

// Eight requests, of which all but two begin as another does, come while others run and end at
// different times; some are sampled by the host.
MixedResult RunMixed(const std::string& checkpoint_name, int64_t graph_rows_max) {
  const golden::Checkpoint checkpoint = golden::Load(checkpoint_name);
  EngineOptions options = SmallEngine(12);
  options.sequences_max = 5;
  options.block_tokens = 4;
  options.graph_rows_max = graph_rows_max;
  const GpuGroup group{.model_dir = checkpoint.dir, .dtype = "bf16", .table = CheapTable()};
  Collector collector;
  MixedResult result;
  int64_t waits = 0;
  uint64_t first_step = 0;  // an epoch that begins waits, too
  DeviceEngine engine(group, 0, options, [&](const StepOutput& output) {
    if (first_step == 0) {
      first_step = output.step;
      waits = emulation::WaitsOf(0);
    }
    collector.Take(output);
  });
  engine.Run(MakeSingleCollectives(1));
  for (uint64_t id = 0; id < 8; ++id) {
    if (id == 4) collector.Wait(0);
    SequenceRequest request = RequestOf(checkpoint, id, id % 2);
    request.max_tokens = 2 + static_cast<int32_t>(id % 4) * 2;
    request.sampling.seed = id;
    if (id % 4 == 3) request.sampling.num_logprobs = 1;
    if (id % 5 == 4) request.sampling.frequency_penalty = 0.5;
    CHOIR_CHECK(engine.engine().Submit(std::move(request)).ok());
  }
  for (uint64_t id = 0; id < 8; ++id) EXPECT_EQ(collector.Wait(id), Finish::kLength);
  result.stats = engine.engine().stats();
  result.waits = emulation::WaitsOf(0) - waits;
  result.steps = static_cast<int64_t>(result.stats.steps - first_step);
  result.tokens = collector.tokens();
  return result;
}

TEST_P(DeviceEngineTest, GivesTheSameTokensWithGraphsAndWithout) {
  const MixedResult plain = RunMixed(GetParam(), 0), graphs = RunMixed(GetParam(), 8);
  EXPECT_EQ(graphs.tokens, plain.tokens);
  EXPECT_EQ(plain.stats.graphs.replays, 0u);
  EXPECT_GT(graphs.stats.graphs.replays, 0u);
  EXPECT_GT(graphs.stats.prefix_hit_tokens, 0u);
  if (!CheapTable().ends_with("_emulated")) return;  // others count no waits
  EXPECT_GT(graphs.steps, 5);
  EXPECT_EQ(graphs.waits, graphs.steps) << "one wait a step";
  EXPECT_EQ(plain.waits, plain.steps) << "one wait a step";
}

TEST(DeviceEngine, GoesOnWithoutGraphsWhereNoneCanBeMade) {
  if (!CheapTable().ends_with("_emulated")) GTEST_SKIP() << "emulated cards fail when told to";
  emulation::FailGraphs(0, "operation failed due to a previous error during capture");
  const MixedResult failing = RunMixed("llama_biased", 8);
  emulation::FailGraphs(0, nullptr);
  EXPECT_EQ(failing.stats.graphs.captures, 0u);
  EXPECT_EQ(failing.stats.graphs.replays, 0u);
  EXPECT_EQ(failing.tokens, RunMixed("llama_biased", 0).tokens);
}

TEST(HostExpertsDeviceEngineTest, GivesTheSameTokensHoweverItIsRun) {
  const auto kernels = MakeCpuKernels("auto").value();
  const auto run = [&](Way way, int64_t on_host) {
    way.host = {.count = on_host, .kernels = kernels.get()};
    return Generate("deepseek_v3_fp8", way);
  };
  // All experts of every rank, so that the set does not depend on the ranks.
  const auto alone = run({.together = false}, 6);
  for (const auto& [id, tokens] : alone) EXPECT_EQ(tokens.size(), size_t{kTokens}) << id;
  EXPECT_EQ(run({.step_tokens = 5}, 6), alone) << "in a batch, in chunks";
  const bool nccl = Way().emulated();
  EXPECT_EQ(run({.ranks = 2, .nccl = nccl}, 3), alone) << "on 2 ranks";
  EXPECT_EQ(run({.step_tokens = 5}, 3), run({.together = false}, 3)) << "half of them";
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, DeviceEngineTest,
                         testing::Values("deepseek_v3_plain", "gpt_oss_mxfp4", "llama_biased"),
                         [](const auto& info) { return info.param; });

struct Fault {
  const char* name;
  FakeNcclFaults faults;  // two groups connect, then come dispatches and combines
  const char* words;  // of the rank that is first: where one hangs, its own next transfer does, too
  SlotOptions slots = {};
};

class NcclFailure : public testing::TestWithParam<Fault> {
 protected:
  ~NcclFailure() override { SetFakeNcclFaults({}); }
};

TEST_P(NcclFailure, EndsTheEpochOfAllRanksAndTheNextOneGivesTheSameTokens) {
  const std::string name = "qwen3_moe_sparse";
  const golden::Checkpoint checkpoint = golden::Load(name);
  const GpuGroup group{.model_dir = checkpoint.dir,
                       .dtype = "bf16",
                       .table = "gpu_tensor_emulated",
                       .ranks = 2,
                       .nccl = true};
  const auto expected = Generate(name, {.table = group.table});
  EngineOptions options = SmallEngine(32);
  options.row_path = RowPath::kDevice;
  options.slots = GetParam().slots;
  Collector collector;
  std::mutex mu;
  std::vector<std::string> failures;
  std::vector<std::unique_ptr<DeviceEngine>> engines;
  for (int r = 0; r < group.ranks; ++r) {
    engines.push_back(std::make_unique<DeviceEngine>(
        group, r, options, [&](const StepOutput& output) { collector.Take(output); }));
    engines.back()->engine().OnEpochFailed([&](uint64_t epoch, const Status& status) {
      std::lock_guard lock(mu);
      if (epoch == 1) failures.push_back(MessageOf(status));
    });
  }
  SetFakeNcclFaults(GetParam().faults);
  NcclRanks ranks =
      MakeNcclRanks(2, 1, {.timeout = std::chrono::milliseconds(300), .slots = kSlots});
  for (size_t r = 0; r < engines.size(); ++r) engines[r]->Run(std::move(ranks[r]));
  CHOIR_CHECK(engines[0]->engine().Submit(RequestOf(checkpoint, 7, 0)).ok());
  EXPECT_EQ(collector.Wait(7), Finish::kLost);
  SetFakeNcclFaults({});
  ranks = MakeNcclRanks(2, 2, {.slots = kSlots});
  for (size_t r = 0; r < engines.size(); ++r) engines[r]->engine().SetEpoch(std::move(ranks[r]));
  CHOIR_CHECK(engines[0]->engine().Submit(RequestOf(checkpoint, 8, 0)).ok());
  EXPECT_EQ(collector.Wait(8), Finish::kLength);
  engines.clear();
  EXPECT_EQ(collector.tokens().at(8), expected.at(0));
  std::lock_guard lock(mu);
  ASSERT_FALSE(failures.empty());
  for (const std::string& failure : failures) EXPECT_THAT(failure, ContainsRegex(GetParam().words));
}

INSTANTIATE_TEST_SUITE_P(
    All, NcclFailure,
    testing::Values(
        Fault{"InDispatch",
              {.failing_rank = 1, .failing_after = 2},
              "NCCL dispatch at rank 1 of 2: unhandled cuda error"},
        Fault{"InCombine",
              {.failing_rank = 1, .failing_after = 3},
              "NCCL combine at rank 1 of 2: unhandled cuda error"},
        Fault{"HungInDispatch",
              {.silent_rank = 0, .silent_after = 2},
              "NCCL (dispatch at rank 1|combine at rank 0) of 2 took longer than 300 ms"},
        Fault{"HungInCombine",
              {.silent_rank = 1, .silent_after = 3},
              "NCCL (combine at rank 0|dispatch at rank 1) of 2 took longer than 300 ms"},
        Fault{"InDispatchOfAStepInSlots",
              {.failing_rank = 1, .failing_after = 2},
              "NCCL dispatch at rank 1 of 2: unhandled cuda error",
              {.rows = 32, .output_bytes = 1 << 20}},
        Fault{"HungInACombineOfSlots",
              {.silent_rank = 1, .silent_after = 3},
              "NCCL (dispatch|combine) at rank [01] of 2 took longer than 300 ms",
              {.rows = 32, .output_bytes = 1 << 20}}),
    [](const auto& info) { return info.param.name; });

TEST(DeviceFailure, EndsWhatRunsAndIsToldOnce) {
  const golden::Checkpoint checkpoint = golden::Load("tiny_llama");
  Collector collector;
  std::mutex mu;
  std::vector<std::string> failures;
  const GpuGroup group{.model_dir = checkpoint.dir, .table = "gpu_emulated"};
  {
    DeviceEngine engine(group, 0, SmallEngine(32),
                        [&](const StepOutput& output) { collector.Take(output); });
    engine.engine().OnDeviceFailed([&](const Status& status) {
      std::lock_guard lock(mu);
      failures.push_back(MessageOf(status));
    });
    engine.Run(MakeSingleCollectives(1));
    CHOIR_CHECK(engine.engine().Submit(RequestOf(checkpoint, 1, 0)).ok());
    EXPECT_EQ(collector.Wait(1), Finish::kLength);
    emulation::FailCard(0, "an illegal memory access was encountered");
    CHOIR_CHECK(engine.engine().Submit(RequestOf(checkpoint, 2, 0)).ok());
    EXPECT_EQ(collector.Wait(2), Finish::kLost);
    engine.engine().SetEpoch(MakeSingleCollectives(2));
    CHOIR_CHECK(engine.engine().Submit(RequestOf(checkpoint, 3, 0)).ok());
    EXPECT_EQ(collector.Wait(3), Finish::kLost);
  }
  emulation::FailCard(0, nullptr);
  std::lock_guard lock(mu);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_THAT(failures[0], HasSubstr("an emulated card"));
  EXPECT_THAT(failures[0], HasSubstr("illegal memory access"));
}

// Experts are placed as an epoch begins, which is when a card that died meanwhile shows it.
TEST(DeviceFailure, IsToldWhereAnEpochCannotBegin) {
  std::mutex mu;
  std::vector<std::string> failures;
  std::vector<uint64_t> epochs;
  const GpuGroup group{.model_dir = golden::Dir("deepseek_v3_plain"), .table = "gpu_emulated"};
  {
    DeviceEngine engine(group, 0, SmallEngine(32), [](const StepOutput&) {});
    std::promise<void> told;
    engine.engine().OnDeviceFailed([&](const Status& status) {
      const std::lock_guard lock(mu);
      failures.push_back(MessageOf(status));
    });
    engine.engine().OnEpochFailed([&](uint64_t generation, const Status&) {
      const std::lock_guard lock(mu);
      epochs.push_back(generation);
      told.set_value();
    });
    emulation::FailCard(0, "an uncorrectable ECC error was encountered");
    engine.Run(MakeSingleCollectives(7));
    told.get_future().wait();
  }
  emulation::FailCard(0, nullptr);
  const std::lock_guard lock(mu);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_THAT(failures[0], HasSubstr("ECC error"));
  EXPECT_EQ(epochs, std::vector<uint64_t>{7});
}

constexpr uint64_t kCardMiB = uint64_t{1} << 20;

// On a card with so much memory; ranks but the first are not there.
Status LoadOnCard(uint64_t memory, int ranks, const EngineOptions& options, LoadOptions load) {
  const GpuRank gpu = MakeGpuRank("gpu_emulated", 0);
  emulation::SetCardMemory(0, memory);
  load.dtype = "f32";
  load.num_ranks = ranks;
  load.device = gpu.device.get();
  load.beside_weights = [&](auto sizes) {
    return Engine::BytesBeside(options, std::move(sizes), gpu.kernels.get(), ranks);
  };
  const Status status = LoadModel(load, *gpu.kernels).status();
  emulation::SetCardMemory(0, 0);
  return status;
}

TEST(DeviceMemory, TooLittleIsSaidBeforeAnyWeightIsRead) {
  EngineOptions options = SmallEngine(32);
  options.kv_bytes = 1024 * kCardMiB;
  LoadOptions load{.model_dir = golden::Dir("deepseek_v3_plain")};
  load.progress = [](int64_t, int64_t) { ADD_FAILURE() << "reads weights"; };
  const Status status = LoadOnCard(300 * kCardMiB, 1, options, load);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  for (const char* words : {"1 MiB of weights", "lower kv_bytes", "256 MiB for the driver;",
                            "300 MiB of its 300 MiB are free"}) {
    EXPECT_THAT(MessageOf(status), HasSubstr(words));
  }
}

TEST(DeviceMemory, WhatNcclWillTakeIsLeftWhereRowsMayGoByIt) {
  EngineOptions options = SmallEngine(32);
  options.slots.rows = 8;
  LoadOptions load{.model_dir = golden::Dir("deepseek_v3_plain")};
  const uint64_t memory = 500 * kCardMiB;
  for (const int ranks : {1, 2}) {
    options.row_path = RowPath::kHost;
    EXPECT_TRUE(LoadOnCard(memory, ranks, options, load).ok()) << ranks;
  }
  options.row_path = RowPath::kEither;
  EXPECT_TRUE(LoadOnCard(memory, 1, options, load).ok()) << "alone";
  load.progress = [](int64_t, int64_t) { ADD_FAILURE() << "reads weights"; };
  for (const RowPath path : {RowPath::kEither, RowPath::kDevice}) {
    options.row_path = path;
    const Status status = LoadOnCard(memory, 2, options, load);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    for (const char* words : {"keep rows off NCCL (device_exchange host)",
                              "256 MiB for the driver and 897 MiB for NCCL"}) {
      EXPECT_THAT(MessageOf(status), HasSubstr(words));
    }
  }
  load.progress = nullptr;
  EXPECT_TRUE(LoadOnCard(3 * memory, 2, options, load).ok());
}

}  // namespace
}  // namespace choir
