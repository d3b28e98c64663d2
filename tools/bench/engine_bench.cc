// What a step costs without a model: plan, batch, sampling of a tiny vocabulary, tokens out. A
// model that computes nothing stands in; all sequences decode. Prints microseconds a step for
// several batch sizes.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tools/bench/weightless_model.h"
#include "worker/comm/local_collectives.h"
#include "worker/engine/engine.h"

namespace choir {
namespace {

constexpr int64_t kVocab = 16;
constexpr int32_t kSteps = 4000;

class NullModel final : public Model {
 public:
  const LoadedModel& loaded() const override { return loaded_; }
  Status Forward(const ModelBatch& batch, ExpertExchange*, const Stream&) override {
    std::fill_n(batch.logits.f32(), batch.logits.num_elements(), 0.0f);
    return absl::OkStatus();
  }
  const ExpertCounts& expert_counts() const override { return expert_counts_; }

 private:
  const bench::WeightlessModel loaded_{"null", kVocab, 1 << 20};
  ExpertCounts expert_counts_;
};

// Median time from one step's output to the next, in microseconds.
double Measure(int64_t batch) {
  EngineOptions options;
  options.step_tokens = options.sequences_max = batch;
  options.kv_bytes = static_cast<uint64_t>(batch * (kSteps + 64) * 4 * 2);
  std::vector<MonoTime> times;
  std::mutex mu;
  std::condition_variable done;
  int64_t left = batch;
  auto made = Engine::MakeWithModel(options, std::make_unique<NullModel>(), nullptr, 1,
                                    [&](const StepOutput& output) {
                                      times.push_back(Clock::Real().Now());
                                      if (output.load.running > 0) return;
                                      std::lock_guard lock(mu);
                                      for (const auto& u : output.updates) {
                                        left -= u.finish == Finish::kNone ? 0 : 1;
                                      }
                                      done.notify_one();
                                    });
  CHOIR_CHECK(made.ok());
  Engine& engine = **made;
  for (int64_t i = 0; i < batch; ++i) {
    SequenceRequest request;
    request.id = SequenceId(static_cast<uint64_t>(i) + 1);
    request.tokens = {1};
    request.num_prompt = 1;
    request.max_tokens = kSteps;
    request.sampling.temperature = 0.0;
    request.cache_salt = std::to_string(i);  // all generate the same: nothing is to be shared
    CHOIR_CHECK(engine.Submit(std::move(request)).ok());
  }
  engine.SetEpoch(MakeSingleCollectives(1));
  std::jthread owner([&] { engine.Run(); });
  {
    std::unique_lock lock(mu);
    done.wait(lock, [&] { return left == 0; });
  }
  engine.Stop();
  owner.join();
  std::vector<double> steps;
  for (size_t i = 1; i < times.size(); ++i) steps.push_back(Seconds(times[i] - times[i - 1]) * 1e6);
  std::nth_element(steps.begin(), steps.begin() + static_cast<long>(steps.size() / 2), steps.end());
  return steps[steps.size() / 2];
}

}  // namespace
}  // namespace choir

int main() {
  std::printf("%8s %12s %12s\n", "batch", "us/step", "us/token");
  for (const int64_t batch : {1, 8, 32, 128, 256}) {
    const double us = choir::Measure(batch);
    std::printf("%8lld %12.2f %12.3f\n", static_cast<long long>(batch), us,
                us / static_cast<double>(batch));
  }
  return 0;
}
