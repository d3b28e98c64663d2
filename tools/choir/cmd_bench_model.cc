// `choir bench model`: how fast a model prefills and decodes on this machine, and how far that is
// from what memory and multipliers allow. Goes through the real engine: scheduler, KV pool, sampler
// and all.
#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "commit.h"
#include "common/base/version.h"
#include "tools/choir/commands.h"
#include "tools/choir/machine_rates.h"
#include "tools/choir/model_floor.h"
#include "tools/choir/offline.h"
#include "tools/choir/offline_engines.h"

namespace choir {
namespace {

constexpr int64_t kBatchMax = 4096;
constexpr int64_t kBlockTokens = 32;
constexpr double kFigureSecondsMax = 20;  // then a prefill is not repeated once more

struct BenchOptions {
  OfflineOptions offline;
  std::string batch = "1,8,32";
  int64_t prompt = 512, tokens = 64, repeat = 5, step_tokens = 512;
  bool json = false;
};

struct Figure {
  std::string name;  // prefill, decode
  int64_t batch = 0;
  int64_t tokens = 0;
  std::vector<double> tok_s_all;
  double floor_tok_s = 0;

  double tok_s() const {
    std::vector<double> sorted = tok_s_all;
    std::sort(sorted.begin(), sorted.end());
    const size_t n = sorted.size();
    return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  }
  double share() const { return tok_s() / floor_tok_s; }
};

StatusOr<std::vector<int64_t>> ReadBatches(const std::string& text) {
  std::vector<int64_t> batches;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    int64_t batch = 0;
    const auto [next, error] = std::from_chars(at, end, batch);
    if (error != std::errc() || batch < 1 || batch > kBatchMax || (next != end && *next != ',')) {
      return InvalidArgument("--batch '{}': must be numbers from 1 to {} with commas between", text,
                             kBatchMax);
    }
    batches.push_back(batch);
    if (next == end) return batches;
    at = next + 1;
  }
}

// What the engines' sinks saw, with the time. Any thread.
class Recorder {
 public:
  struct Step {
    MonoTime time;
    size_t tokens = 0;  // sampled on rank 0 in this step
  };

  void Reset(int64_t sequences) {
    std::lock_guard lock(mu_);
    steps_.clear();
    left_ = sequences;
    error_.clear();
  }

  void Take(const StepOutput& output, bool first_rank) {
    const MonoTime now = Clock::Real().Now();
    std::lock_guard lock(mu_);
    if (first_rank) steps_.push_back({now, output.updates.size()});
    for (const SequenceOutput& u : output.updates) {
      if (u.finish == Finish::kNone) continue;
      --left_;
      if (u.finish != Finish::kLength) error_ = u.error.empty() ? "a sequence was lost" : u.error;
    }
    if (left_ <= 0) done_.notify_all();
  }

  StatusOr<std::vector<Step>> Wait() {
    std::unique_lock lock(mu_);
    done_.wait(lock, [&] { return left_ <= 0; });
    if (!error_.empty()) return FailedPrecondition("{}", error_);
    return steps_;
  }

 private:
  std::mutex mu_;
  std::condition_variable done_;
  std::vector<Step> steps_;
  int64_t left_ = 0;
  std::string error_;
};

class Bench {
 public:
  Bench(const BenchOptions& options, const OfflineModel& model, const FloorInput& floor)
      : options_(options), model_(model), floor_(floor) {}

  Status Start(int64_t batch_max) {
    const int64_t each = (batch_max + model_.ranks - 1) / model_.ranks;
    EngineOptions engine;
    engine.step_tokens = std::max(options_.step_tokens, each);
    engine.sequences_max = each;
    engine.block_tokens = kBlockTokens;
    engine.context_length =
        std::min(options_.prompt + TokensToAsk(batch_max), model_.loaded->info().context_length);
    engine.kv_bytes = KvBytesFor(*model_.loaded, each, engine.context_length, kBlockTokens);
    engine.prefix_cache = false;  // the same prompts again are to be computed again
    step_tokens_ = engine.step_tokens;
    CHOIR_ASSIGN_OR_RETURN(engines_, OfflineEngines::Start(model_, engine, [this](size_t rank) {
                             return [this, rank](const StepOutput& o) {
                               recorder_.Take(o, rank == 0);
                             };
                           }));
    return absl::OkStatus();
  }

  // The first run of a batch warms up, unless it alone fills the time.
  StatusOr<Figure> Prefill(int64_t batch) {
    Figure figure{.name = "prefill", .batch = batch, .tokens = batch * options_.prompt};
    figure.floor_tok_s = PrefillFloor(floor_, batch, options_.prompt, step_tokens_ * model_.ranks);
    double spent = 0;
    for (int64_t i = 0; i <= options_.repeat; ++i) {
      const MonoTime start = Clock::Real().Now();
      CHOIR_ASSIGN_OR_RETURN(const auto steps, RunSequences(batch, 1));
      const double seconds = Seconds(steps.back().time - start);
      spent += seconds;
      const bool enough = spent > kFigureSecondsMax;
      if (i > 0 || enough) {
        figure.tok_s_all.push_back(static_cast<double>(figure.tokens) / seconds);
      }
      if (enough) break;
    }
    return figure;
  }

  // One prefill; its decode steps are cut into `repeat` runs of `tokens` steps.
  StatusOr<Figure> Decode(int64_t batch) {
    Figure figure{.name = "decode", .batch = batch, .tokens = options_.tokens};
    const int64_t wanted = options_.tokens * options_.repeat;
    figure.floor_tok_s = DecodeFloor(floor_, batch, options_.prompt + wanted / 2);
    const auto full = static_cast<size_t>((batch + model_.ranks - 1) / model_.ranks);
    CHOIR_ASSIGN_OR_RETURN(const auto steps, RunSequences(batch, TokensToAsk(batch)));
    // A step counts when it and the one before sampled for every sequence: pure decodes.
    double seconds = 0;
    int64_t count = 0;
    for (size_t s = 1; s < steps.size(); ++s) {
      if (steps[s].tokens != full || steps[s - 1].tokens != full) continue;
      seconds += Seconds(steps[s].time - steps[s - 1].time);
      if (++count < options_.tokens) continue;
      figure.tok_s_all.push_back(static_cast<double>(batch * count) / seconds);
      if (static_cast<int64_t>(figure.tok_s_all.size()) == options_.repeat) break;
      seconds = 0;
      count = 0;
    }
    return figure;
  }

 private:
  // Enough that `repeat` times `tokens` steps are left in which all decode: prompts come in chunks.
  int64_t TokensToAsk(int64_t batch) const {
    const int64_t each = (batch + model_.ranks - 1) / model_.ranks;
    const int64_t room = std::max<int64_t>(options_.step_tokens - each, 1);
    return options_.tokens * options_.repeat + 2 + (each * options_.prompt + room - 1) / room;
  }

  StatusOr<std::vector<Recorder::Step>> RunSequences(int64_t batch, int64_t max_tokens) {
    recorder_.Reset(batch);
    for (int64_t i = 0; i < batch; ++i) {
      SequenceRequest request;
      request.id = SequenceId(++last_id_);
      request.num_prompt = static_cast<int32_t>(options_.prompt);
      request.max_tokens = static_cast<int32_t>(max_tokens);
      request.sampling.temperature = 0.0;
      for (int64_t t = 0; t < options_.prompt; ++t) request.tokens.push_back(RandomToken());
      const auto rank = static_cast<size_t>(i) % engines_->size();
      CHOIR_RETURN_IF_ERROR(engines_->rank(rank).Submit(std::move(request)));
    }
    return recorder_.Wait();
  }

  int32_t RandomToken() {
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int32_t>((random_ >> 33) %
                                static_cast<uint64_t>(model_.loaded->info().vocab));
  }

  const BenchOptions& options_;
  const OfflineModel& model_;
  const FloorInput& floor_;
  Recorder recorder_;
  std::unique_ptr<OfflineEngines> engines_;
  int64_t step_tokens_ = 0;
  uint64_t last_id_ = 0;
  uint64_t random_ = 1;
};

void PrintTable(const OfflineModel& model, const MachineRates& rates,
                const std::vector<Figure>& figures) {
  const ModelInfo& info = model.loaded->info();
  std::printf("machine  %s", MachineText(rates).c_str());
  std::printf("\nmodel    %s, %s, %s, %d rank%s: a token reads %.1f of %.1f MB\n\n",
              info.family.c_str(), model.loaded->compute() == Compute::kBF16 ? "bf16" : "f32",
              model.kernels->Name().c_str(), model.ranks, model.ranks == 1 ? "" : "s",
              static_cast<double>(info.active_weight_bytes) / 1e6,
              static_cast<double>(info.weight_bytes) / 1e6);
  std::printf("%-8s %6s %8s %12s %12s %7s\n", "", "batch", "tokens", "tok/s", "floor", "share");
  for (const Figure& f : figures) {
    std::printf("%-8s %6lld %8lld %12.1f %12.1f %6.1f%%\n", f.name.c_str(),
                static_cast<long long>(f.batch), static_cast<long long>(f.tokens), f.tok_s(),
                f.floor_tok_s, 100.0 * f.share());
  }
}

void PrintJson(const OfflineModel& model, const MachineRates& rates,
               const std::vector<Figure>& figures) {
  nlohmann::ordered_json out;
  out["machine"] = MachineJson(rates);
  out["machine"]["kernels"] = model.kernels->Name();
  out["version"] = std::string(kVersion);
  out["commit"] = CHOIR_COMMIT;
  out["numerics_id"] = model.loaded->numerics_id();
  out["ranks"] = model.ranks;
  out["figures"] = nlohmann::ordered_json::array();
  for (const Figure& f : figures) {
    out["figures"].push_back({{"name", f.name},
                              {"batch", f.batch},
                              {"tokens", f.tokens},
                              {"tok_s", f.tok_s()},
                              {"tok_s_all", f.tok_s_all},
                              {"floor_tok_s", f.floor_tok_s},
                              {"share", f.share()}});
  }
  std::printf("%s\n", out.dump(2).c_str());
}

Status Run(const BenchOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<int64_t> batches, ReadBatches(options.batch));
  CHOIR_ASSIGN_OR_RETURN(const OfflineModel model, LoadOffline(options.offline));
  const MachineRates rates = MeasureMachine(model.ranks * model.threads_per_rank);
  const FloorInput floor = FloorInputOf(*model.loaded, rates);
  Bench bench(options, model, floor);
  CHOIR_RETURN_IF_ERROR(bench.Start(*std::max_element(batches.begin(), batches.end())));
  std::vector<Figure> figures;
  for (const int64_t batch : batches) {
    CHOIR_ASSIGN_OR_RETURN(Figure prefill, bench.Prefill(batch));
    figures.push_back(std::move(prefill));
    CHOIR_ASSIGN_OR_RETURN(Figure decode, bench.Decode(batch));
    figures.push_back(std::move(decode));
  }
  options.json ? PrintJson(model, rates, figures) : PrintTable(model, rates, figures);
  return absl::OkStatus();
}

}  // namespace

int RunBenchModel(int argc, const char* const* argv) {
  BenchOptions options;
  OptionSet set("choir bench model",
                "Measures prefill and decode of a model against what this machine allows: the time "
                "to read the weights and to multiply, measured in the same run.",
                "");
  AddOfflineOptions(&set, &options.offline);
  set.Add(&options.prompt, {.flag = "--prompt", .help = "prompt tokens a sequence"}, 1, 1 << 20);
  set.Add(&options.tokens, {.flag = "--tokens", .help = "decode steps to measure"}, 1, 1 << 20);
  set.Add(&options.batch, {.flag = "--batch", .help = "sequences at once; numbers with commas"});
  set.Add(&options.repeat,
          {.flag = "--repeat",
           .help = "runs, fewer of a prefill that takes long; the median is printed"},
          1, 1000);
  set.Add(&options.step_tokens, {.flag = "--step-tokens", .help = "token budget of a step"}, 1,
          65536);
  set.Add(&options.json, {.flag = "--json", .help = "print JSON"});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const Status status = Run(options);
  return status.ok() ? 0 : Complain(status);
}

}  // namespace choir
