// `choir generate`: one answer from a model in this process, without servers.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "router/text/tokenizer.h"
#include "tools/choir/commands.h"
#include "tools/choir/generation_defaults.h"
#include "tools/choir/offline.h"
#include "tools/choir/offline_engines.h"
#include "worker/model/config/model_config.h"

namespace choir {
namespace {

constexpr double kUnset = -1;
constexpr float kLeastLogprob = -9999.0f;  // JSON has no minus infinity
constexpr int64_t kBlockTokens = 32;

struct GenerateOptions {
  OfflineOptions offline;
  std::string prompt, ids;
  int64_t max_tokens = 512;
  double temperature = kUnset, top_p = kUnset;
  int64_t seed = -1, logprobs = -1;
  bool ignore_eos = false, json = false;
};

struct Generated {
  std::vector<int32_t> ids;
  std::vector<SampledLogprob> logprobs;
  Finish finish = Finish::kNone;
  std::string error;
};

// Collects the answer and, for people, prints its text as it comes.
class Listener {
 public:
  explicit Listener(StreamingDetokenizer* detokenizer) : detokenizer_(detokenizer) {}

  void Take(StepOutput output) {
    for (SequenceOutput& u : output.updates) {
      if (detokenizer_ != nullptr && u.finish != Finish::kStop) {
        for (const int32_t id : u.tokens) Print(detokenizer_->Push(id));
      }
      std::lock_guard lock(mu_);
      generated_.ids.insert(generated_.ids.end(), u.tokens.begin(), u.tokens.end());
      for (SampledLogprob& l : u.logprobs) generated_.logprobs.push_back(std::move(l));
      generated_.finish = u.finish;
      generated_.error = u.error;
      if (u.finish != Finish::kNone) ended_.notify_all();
    }
  }

  Generated Wait() {
    std::unique_lock lock(mu_);
    ended_.wait(lock, [&] { return generated_.finish != Finish::kNone; });
    return std::move(generated_);
  }

 private:
  static void Print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  StreamingDetokenizer* const detokenizer_;  // null: print nothing
  std::mutex mu_;
  std::condition_variable ended_;
  Generated generated_;
};

// As the router has it: the model's, else the tokenizer's.
std::vector<int32_t> StopIds(const OfflineModel& model, const Tokenizer* tokenizer) {
  std::vector<int32_t> ids = model.loaded->info().eos_ids;
  if (!ids.empty() || tokenizer == nullptr) return ids;
  if (const auto id = tokenizer->eos_id()) ids.push_back(*id);
  return ids;
}

StatusOr<SequenceRequest> MakeRequest(const GenerateOptions& options, const OfflineModel& model,
                                      const Tokenizer* tokenizer, std::vector<int32_t> prompt) {
  CHOIR_ASSIGN_OR_RETURN(const GenerationDefaults defaults,
                         ReadGenerationDefaults(options.offline.model_dir));
  SequenceRequest request;
  request.id = SequenceId(1);
  request.num_prompt = static_cast<int32_t>(prompt.size());
  request.tokens = std::move(prompt);
  request.max_tokens = static_cast<int32_t>(options.max_tokens);
  SamplingParams& s = request.sampling;
  s.temperature = options.temperature == kUnset ? defaults.temperature : options.temperature;
  s.top_p = options.top_p == kUnset ? defaults.top_p : options.top_p;
  s.top_k = defaults.top_k;
  s.num_logprobs = static_cast<int32_t>(options.logprobs);
  s.seed = static_cast<uint64_t>(options.seed);
  if (options.seed < 0) {
    s.seed = std::random_device()();
    if (s.temperature > 0) {
      std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(s.seed));
    }
  }
  if (!options.ignore_eos) request.stop_token_ids = StopIds(model, tokenizer);
  return request;
}

StatusOr<Generated> Generate(const OfflineModel& model, const SequenceRequest& request,
                             Listener* listener) {
  const int64_t tokens = std::min(int64_t{request.num_prompt} + request.max_tokens,
                                  model.loaded->info().context_length);
  EngineOptions options;
  options.sequences_max = 1;
  options.block_tokens = kBlockTokens;
  options.kv_bytes =
      KvBytesFor(*model.loaded, 1, std::max<int64_t>(tokens, request.num_prompt), kBlockTokens);
  // Lookups of rope and scratch memory need not reach beyond what this one sequence can.
  options.context_length = tokens;
  CHOIR_ASSIGN_OR_RETURN(const auto engines, OfflineEngines::Start(model, options, [&](size_t) {
                           return
                               [listener](StepOutput output) { listener->Take(std::move(output)); };
                         }));
  CHOIR_RETURN_IF_ERROR(engines->rank(0).Submit(request));
  Generated generated = listener->Wait();
  if (generated.finish == Finish::kRefused) return InvalidArgument("{}", generated.error);
  if (generated.finish == Finish::kLost) return Unavailable("the ranks lost each other");
  return generated;
}

nlohmann::ordered_json LogprobsJson(const std::vector<int32_t>& ids,
                                    const std::vector<SampledLogprob>& logprobs) {
  const auto entry = [](int32_t id, float logprob) {
    return nlohmann::ordered_json{{"id", id}, {"logprob", std::max(logprob, kLeastLogprob)}};
  };
  auto list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < logprobs.size(); ++i) {
    auto token = entry(ids[i], logprobs[i].logprob);
    token["top"] = nlohmann::ordered_json::array();
    for (const auto& [id, logprob] : logprobs[i].top) token["top"].push_back(entry(id, logprob));
    list.push_back(std::move(token));
  }
  return list;
}

// The stop token belongs to the ids, not to the text.
StatusOr<std::string> TextOf(const Tokenizer& tokenizer, const Generated& generated) {
  std::vector<int32_t> ids = generated.ids;
  if (generated.finish == Finish::kStop) ids.pop_back();
  return tokenizer.Decode(ids, /*skip_special=*/true);
}

StatusOr<std::vector<int32_t>> PromptIds(const GenerateOptions& options, const OfflineModel& model,
                                         const Tokenizer* tokenizer) {
  const int64_t vocab = model.loaded->info().vocab;
  if (!options.ids.empty()) return ReadTokenIds(options.ids, vocab);
  CHOIR_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                         tokenizer->Encode(options.prompt, /*add_special=*/true));
  if (ids.empty()) return InvalidArgument("--prompt: has no tokens; give some text, or --ids");
  return ids;
}

Status Run(const GenerateOptions& options) {
  // The directory and its config.json first: quick to check, and what most mistakes are about.
  CHOIR_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(options.offline.model_dir));
  // With --ids a directory without a tokenizer will do: then there is no text.
  StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(options.offline.model_dir);
  const bool has_text = tokenizer.ok();
  if (!has_text &&
      (options.ids.empty() || tokenizer.status().code() != absl::StatusCode::kNotFound)) {
    return tokenizer.status();
  }
  if (has_text && (*tokenizer)->vocab_size() > config.vocab) {
    return InvalidArgument(
        "{}/tokenizer.json: vocabulary: has ids up to {}, but vocab_size in config.json is {}; "
        "both "
        "must be of one model",
        options.offline.model_dir, (*tokenizer)->vocab_size() - 1, config.vocab);
  }
  CHOIR_ASSIGN_OR_RETURN(const OfflineModel model, LoadOffline(options.offline));
  const Tokenizer* const text = has_text ? tokenizer->get() : nullptr;
  CHOIR_ASSIGN_OR_RETURN(std::vector<int32_t> prompt, PromptIds(options, model, text));
  CHOIR_ASSIGN_OR_RETURN(const SequenceRequest request, MakeRequest(options, model, text, prompt));
  std::optional<StreamingDetokenizer> detokenizer;
  if (has_text && !options.json) detokenizer.emplace(tokenizer->get(), /*skip_special=*/true);
  Listener listener(detokenizer ? &*detokenizer : nullptr);
  CHOIR_ASSIGN_OR_RETURN(const Generated generated, Generate(model, request, &listener));
  if (!options.json) {
    const std::string rest = detokenizer ? detokenizer->Flush() : std::string();
    if (!has_text) {
      for (const int32_t id : generated.ids) std::printf("%d ", id);
    }
    std::printf("%s\n", rest.c_str());
    return absl::OkStatus();
  }
  nlohmann::ordered_json out;
  out["prompt_ids"] = prompt;
  out["output_ids"] = generated.ids;
  out["text"] = "";
  if (has_text) {
    CHOIR_ASSIGN_OR_RETURN(out["text"], TextOf(*text, generated));
  }
  if (options.logprobs >= 0) out["logprobs"] = LogprobsJson(generated.ids, generated.logprobs);
  out["finish_reason"] = generated.finish == Finish::kStop ? "stop" : "length";
  std::printf("%s\n", out.dump().c_str());
  return absl::OkStatus();
}

}  // namespace

int RunGenerate(int argc, const char* const* argv) {
  GenerateOptions o;
  OptionSet set("choir generate",
                "Generates one answer in this process. What is not given comes from the model's "
                "generation_config.json.",
                "");
  AddOfflineOptions(&set, &o.offline);
  set.Add(&o.prompt, {.flag = "--prompt", .help = "raw text; special tokens are added"});
  set.Add(&o.ids, {.flag = "--ids", .help = "file with a JSON list of token ids, as the prompt"});
  set.Add(&o.max_tokens, {.flag = "--max-tokens", .help = "most tokens to generate"}, 1, 1 << 24);
  set.Add(&o.temperature, {.flag = "--temperature", .help = "0: greedy; -1: the model's"}, -1, 100);
  set.Add(&o.top_p, {.flag = "--top-p", .help = "-1: the model's"}, -1, 1);
  set.Add(&o.seed, {.flag = "--seed", .help = "of the draws; -1: a new one"}, -1, INT64_MAX);
  set.Add(&o.ignore_eos, {.flag = "--ignore-eos", .help = "go on after the end token"});
  set.Add(&o.logprobs,
          {.flag = "--logprobs", .help = "with each token, its and the K best logprobs"}, -1,
          1 << 20);
  set.Add(&o.json, {.flag = "--json", .help = "print JSON"});
  set.AddCheck([&o]() -> Status {
    if (o.prompt.empty() == o.ids.empty()) return InvalidArgument("give either --prompt or --ids");
    for (const double v : {o.temperature, o.top_p}) {
      if (v < 0 && v != kUnset) return InvalidArgument("{} is negative; leave it out", v);
    }
    return absl::OkStatus();
  });
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const Status status = Run(o);
  return status.ok() ? 0 : Complain(status);
}

}  // namespace choir
