// The whole engine on a device: tokens are the same on any number of ranks, in a batch or alone,
// in chunks, and whether the device samples them or the host; and what happens when the device
// fails.
#include <gmock/gmock.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "tests/golden/golden.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/gpu_group.h"
#include "tests/support/gpu_emulation/gpu_tables.h"
#include "worker/engine/engine.h"

namespace choir {
namespace {

using testing::HasSubstr;

constexpr int32_t kTokens = 3;

class Collector {
 public:
  void Take(const StepOutput& output) {
    std::lock_guard lock(mu_);
    for (const SequenceOutput& u : output.updates) {
      std::vector<int32_t>& tokens = tokens_[u.id.value()];
      tokens.insert(tokens.end(), u.tokens.begin(), u.tokens.end());
      if (u.finish != Finish::kNone) finishes_[u.id.value()] = u.finish;
    }
    changed_.notify_all();
  }
  Finish Wait(uint64_t id) {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [&] { return finishes_.contains(id); });
    return finishes_[id];
  }
  std::map<uint64_t, std::vector<int32_t>> tokens() {
    std::lock_guard lock(mu_);
    return tokens_;
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::map<uint64_t, std::vector<int32_t>> tokens_;
  std::map<uint64_t, Finish> finishes_;
};

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

// Prompts 0 and 1, each with and without log probabilities: the former are sampled by the host.
std::map<uint64_t, std::vector<int32_t>> Generate(const std::string& checkpoint_name, int ranks,
                                                  int64_t step_tokens, bool together) {
  const golden::Checkpoint checkpoint = golden::Load(checkpoint_name);
  const GpuGroup group{.model_dir = checkpoint.dir,
                       .dtype = "bf16",
                       .table = GpuTableNames().back(),
                       .ranks = ranks};
  Collector collector;
  std::vector<std::unique_ptr<DeviceEngine>> engines;
  auto collectives = MakeLocalCollectives(ranks, 1, {});
  for (int r = 0; r < ranks; ++r) {
    engines.push_back(
        std::make_unique<DeviceEngine>(group, r, SmallEngine(step_tokens),
                                       [&](const StepOutput& output) { collector.Take(output); }));
  }
  for (size_t r = 0; r < engines.size(); ++r) engines[r]->Run(std::move(collectives[r]));
  for (uint64_t id = 0; id < 4; ++id) {
    SequenceRequest request = RequestOf(checkpoint, id, id / 2);
    request.sampling.num_logprobs = id % 2 == 0 ? -1 : 2;
    CHOIR_CHECK(engines[id % engines.size()]->engine().Submit(std::move(request)).ok());
    if (!together) {
      EXPECT_EQ(collector.Wait(id), Finish::kLength);
    }
  }
  for (uint64_t id = 0; id < 4; ++id) EXPECT_EQ(collector.Wait(id), Finish::kLength);
  engines.clear();
  return collector.tokens();
}

TEST_P(DeviceEngineTest, GivesTheSameTokensHoweverItIsRun) {
  const auto alone = Generate(GetParam(), 1, 32, false);
  ASSERT_EQ(alone.size(), 4u);
  for (const auto& [id, tokens] : alone) EXPECT_EQ(tokens.size(), size_t{kTokens}) << id;
  EXPECT_EQ(alone.at(0), alone.at(1)) << "sampled by the device, and by the host";
  EXPECT_EQ(alone.at(2), alone.at(3)) << "sampled by the device, and by the host";
  EXPECT_EQ(Generate(GetParam(), 1, 32, true), alone) << "in a batch";
  EXPECT_EQ(Generate(GetParam(), 1, 5, true), alone) << "in chunks";
  EXPECT_EQ(Generate(GetParam(), 2, 32, true), alone) << "on 2 ranks";
  EXPECT_EQ(Generate(GetParam(), 4, 32, true), alone) << "on 4 ranks";
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, DeviceEngineTest,
                         testing::Values("deepseek_v3_plain", "gpt_oss_mxfp4", "llama_biased"),
                         [](const auto& info) { return info.param; });

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

TEST(DeviceMemory, TooLittleIsSaidBeforeAnyWeightIsRead) {
  const golden::Checkpoint checkpoint = golden::Load("deepseek_v3_plain");
  const GpuRank gpu = MakeGpuRank("gpu_emulated", 0);
  emulation::SetCardMemory(0, uint64_t{300} << 20);
  EngineOptions options = SmallEngine(32);
  options.kv_bytes = uint64_t{1} << 30;
  LoadOptions load{.model_dir = checkpoint.dir, .dtype = "f32"};
  load.device = gpu.device.get();
  load.beside_weights = [&](auto sizes) {
    return Engine::BytesBeside(options, std::move(sizes), gpu.kernels.get(), 1);
  };
  load.progress = [](int64_t, int64_t) { ADD_FAILURE() << "reads weights"; };
  const Status status = LoadModel(load, *gpu.kernels).status();
  emulation::SetCardMemory(0, 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  for (const char* words : {"1 MiB of weights", "lower kv_bytes", "256 MiB for the driver",
                            "300 MiB of its 300 MiB are free"}) {
    EXPECT_THAT(MessageOf(status), HasSubstr(words));
  }
}

}  // namespace
}  // namespace choir
