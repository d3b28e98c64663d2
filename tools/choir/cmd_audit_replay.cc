// `choir audit replay`: computes recorded answers again and compares their digests. Answers are
// reproducible within one numerics id, so a record that differs is no record of what was answered.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/config/options.h"
#include "router/audit/audit_verify.h"
#include "router/audit/token_bytes.h"
#include "router/text/tokenizer.h"
#include "tools/choir/commands.h"
#include "tools/choir/offline.h"
#include "tools/choir/offline_engines.h"

namespace choir {
namespace {

using Json = nlohmann::json;

constexpr int64_t kBlockTokens = 32;

struct ReplayOptions {
  OfflineOptions offline;
  std::string dir, keys, requests, request_id;
  bool json = false;
};

// An intent and how it ended.
struct Recorded {
  Json intent, outcome;
};

// "same", "different", or why it cannot be told.
struct Verdict {
  std::string result;
  std::string why;
};

Verdict NotReplayable(std::string why) { return {"not_replayable", std::move(why)}; }

// A seed of 2^53 or more is a string.
uint64_t IntegerOf(const Json& value) {
  return value.is_string() ? std::strtoull(value.get<std::string>().c_str(), nullptr, 10)
                           : value.get<uint64_t>();
}

// The engine's answers to one sequence after the other.
class Listener {
 public:
  void Take(StepOutput output) {
    std::lock_guard lock(mu_);
    for (SequenceOutput& u : output.updates) {
      ids_.insert(ids_.end(), u.tokens.begin(), u.tokens.end());
      error_ = u.error;
      over_ = over_ || u.finish != Finish::kNone;
    }
    if (over_) ended_.notify_all();
  }
  StatusOr<std::vector<int32_t>> Wait() {
    std::unique_lock lock(mu_);
    ended_.wait(lock, [this] { return over_; });
    over_ = false;
    if (!error_.empty()) return InvalidArgument("{}", error_);
    return std::exchange(ids_, {});
  }

 private:
  std::mutex mu_;
  std::condition_variable ended_;
  std::vector<int32_t> ids_;
  std::string error_;
  bool over_ = false;
};

class Replayer {
 public:
  Replayer(const ReplayOptions& options, const OfflineModel& model)
      : options_(options), model_(model), keys_(options.keys) {}

  Status Start() {
    CHOIR_RETURN_IF_ERROR(ReadRequests());
    EngineOptions engine;
    engine.sequences_max = 1;
    engine.block_tokens = kBlockTokens;
    engine.context_length = model_.loaded->info().context_length;
    engine.kv_bytes = KvBytesFor(*model_.loaded, 1, engine.context_length, kBlockTokens);
    CHOIR_ASSIGN_OR_RETURN(engines_, OfflineEngines::Start(model_, engine, [this](size_t) {
                             return [this](StepOutput o) { listener_.Take(std::move(o)); };
                           }));
    return absl::OkStatus();
  }

  Verdict Replay(const Recorded& record) {
    const Json& intent = record.intent;
    if (!record.outcome.contains("output_digest") || !record.outcome.contains("output_lengths")) {
      return NotReplayable("it has no recorded output");
    }
    if (intent["numerics_id"] != model_.loaded->numerics_id()) {
      return NotReplayable("it was computed under numerics id " +
                           intent["numerics_id"].get<std::string>() + ", this model is " +
                           model_.loaded->numerics_id());
    }
    const StatusOr<TenantKey> key = keys_.Find(intent["tenant"].get<std::string>());
    if (!key.ok()) return NotReplayable("the tenant's key is gone: " + MessageOf(key.status()));
    const StatusOr<std::vector<int32_t>> prompt = PromptOf(intent, *key);
    if (!prompt.ok()) return NotReplayable(MessageOf(prompt.status()));
    std::vector<std::vector<int32_t>> outputs;
    for (const Json& length : record.outcome["output_lengths"]) {
      auto ids = Compute(intent["params"], *prompt, outputs.size(), length.get<size_t>());
      if (!ids.ok()) return NotReplayable(MessageOf(ids.status()));
      outputs.push_back(*std::move(ids));
    }
    if (KeyedDigest(*key, OutputBytes(outputs)) == record.outcome["output_digest"]) {
      return {"same", ""};
    }
    return {"different", "the tokens computed now are not those that were answered"};
  }

 private:
  // Lines of {"request_id": ..., "prompt_ids": [...]} or {"request_id": ..., "prompt": TEXT}.
  Status ReadRequests() {
    if (options_.requests.empty()) return absl::OkStatus();
    std::ifstream file(options_.requests);
    if (!file) return NotFound("--requests {}: cannot be read", options_.requests);
    int number = 0;
    for (std::string line; std::getline(file, line);) {
      ++number;
      const Json json = Json::parse(line, nullptr, false);
      if (!json.is_object() || !json.contains("request_id") || !json["request_id"].is_string()) {
        return InvalidArgument("--requests {}: line {} is no JSON object with a request_id",
                               options_.requests, number);
      }
      requests_[json["request_id"].get<std::string>()] = json;
    }
    return absl::OkStatus();
  }

  StatusOr<std::vector<int32_t>> PromptOf(const Json& intent, const TenantKey& key) {
    const std::string id = intent["request_id"].get<std::string>();
    std::vector<int32_t> ids;
    if (intent.contains("content")) {
      CHOIR_ASSIGN_OR_RETURN(
          const std::string bytes,
          OpenContent(key, id + "/prompt_digest", intent["content"]["sealed"].get<std::string>()));
      ids = IdsOfTokenBytes(bytes);
    } else if (const auto found = requests_.find(id); found != requests_.end()) {
      CHOIR_ASSIGN_OR_RETURN(ids, GivenPrompt(found->second));
    } else {
      return NotFound("its content was not captured and --requests does not hold it");
    }
    if (KeyedDigest(key, TokenBytes(ids)) != intent["prompt_digest"]) {
      return InvalidArgument("the given prompt is not the recorded one: its digest differs");
    }
    return ids;
  }

  StatusOr<std::vector<int32_t>> GivenPrompt(const Json& request) {
    if (const auto ids = request.find("prompt_ids"); ids != request.end() && ids->is_array()) {
      std::vector<int32_t> out;
      for (const Json& id : *ids) {
        if (!id.is_number_integer()) return InvalidArgument("prompt_ids holds something else");
        out.push_back(id.get<int32_t>());
      }
      return out;
    }
    if (!request.contains("prompt") || !request["prompt"].is_string()) {
      return InvalidArgument("--requests: give prompt_ids or prompt");
    }
    if (tokenizer_ == nullptr) {
      CHOIR_ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(options_.offline.model_dir));
    }
    return tokenizer_->Encode(request["prompt"].get<std::string>(), /*add_special=*/true);
  }

  StatusOr<std::vector<int32_t>> Compute(const Json& params, const std::vector<int32_t>& prompt,
                                         size_t choice, size_t length) {
    if (length == 0) return std::vector<int32_t>();
    SequenceRequest request;
    request.id = SequenceId(++last_id_);
    request.tokens = prompt;
    request.num_prompt = static_cast<int32_t>(prompt.size());
    request.max_tokens = static_cast<int32_t>(length);  // a stop string may have ended it
    SamplingParams& s = request.sampling;
    s.temperature = params["temperature"].get<double>();
    s.top_p = params["top_p"].get<double>();
    s.top_k = params["top_k"].get<int32_t>();
    s.min_p = params["min_p"].get<double>();
    s.seed = IntegerOf(params["seed"]);
    s.choice = static_cast<uint32_t>(choice);
    s.presence_penalty = params["presence_penalty"].get<double>();
    s.frequency_penalty = params["frequency_penalty"].get<double>();
    for (const Json& bias : params["logit_bias"]) {
      s.logit_bias.emplace_back(bias[0].get<int32_t>(), bias[1].get<float>());
    }
    for (const Json& id : params["stop_token_ids"]) {
      request.stop_token_ids.push_back(id.get<int32_t>());
    }
    CHOIR_RETURN_IF_ERROR(engines_->rank(0).Submit(std::move(request)));
    return listener_.Wait();
  }

  const ReplayOptions& options_;
  const OfflineModel& model_;
  const TenantKeys keys_;
  std::map<std::string, Json> requests_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Listener listener_;
  std::unique_ptr<OfflineEngines> engines_;
  uint64_t last_id_ = 0;
};

StatusOr<std::vector<Recorded>> ReadRecords(const ReplayOptions& options) {
  std::map<std::string, Json> open;
  std::vector<Recorded> ended;
  const auto take = [&](const Json& record) {
    const std::string phase = record["phase"].get<std::string>();
    if (phase != "intent" && phase != "outcome") return;
    const std::string id = record["request_id"].get<std::string>();
    if (!options.request_id.empty() && id != options.request_id) return;
    if (phase == "intent") {
      open[id] = record;
    } else {
      ended.push_back({open[id], record});
    }
  };
  CHOIR_ASSIGN_OR_RETURN(const AuditVerdict verdict, VerifyAudit(options.dir, "", take));
  if (!verdict.intact) {
    return FailedPrecondition("{}: the log is broken: {}: {}", options.dir, verdict.bad_file,
                              verdict.why);
  }
  return ended;
}

// 0: none differs, 1: some do.
StatusOr<int> Run(const ReplayOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<Recorded> records, ReadRecords(options));
  CHOIR_ASSIGN_OR_RETURN(const OfflineModel model, LoadOffline(options.offline));
  Replayer replayer(options, model);
  CHOIR_RETURN_IF_ERROR(replayer.Start());
  std::map<std::string, int> counts = {{"same", 0}, {"different", 0}, {"not_replayable", 0}};
  for (const Recorded& record : records) {
    const Verdict verdict = replayer.Replay(record);
    ++counts[verdict.result];
    const std::string id = record.outcome["request_id"].get<std::string>();
    if (options.json) {
      const Json line = {{"request_id", id},
                         {"seq", record.outcome["seq"]},
                         {"result", verdict.result},
                         {"why", verdict.why}};
      std::printf("%s\n", line.dump().c_str());
    } else {
      std::printf("%-14s %s %s\n", verdict.result.c_str(), id.c_str(), verdict.why.c_str());
    }
  }
  std::fprintf(stderr, "%d the same, %d different, %d not replayable\n", counts["same"],
               counts["different"], counts["not_replayable"]);
  return counts["different"] == 0 ? 0 : 1;
}

}  // namespace

int RunAuditReplay(int argc, const char* const* argv) {
  ReplayOptions o;
  OptionSet set(
      "choir audit replay",
      "Computes recorded answers again and compares them with the record: 0 none differs, "
      "1 some do, 2 nothing to replay.",
      "");
  set.Add(&o.dir, {.flag = "DIR", .help = "audit directory of one router", .required = true});
  set.Add(&o.keys, {.flag = "--keys", .help = "directory of the audit keys [DIR-keys]"});
  set.Add(&o.requests, {.flag = "--requests",
                        .help = "JSON lines with request_id and prompt_ids or prompt, for records "
                                "whose content was not captured"});
  set.Add(&o.request_id, {.flag = "--request", .help = "only this request id"});
  set.Add(&o.json, {.flag = "--json", .help = "print JSON lines"});
  AddOfflineOptions(&set, &o.offline);
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  while (o.dir.ends_with('/')) o.dir.pop_back();
  if (o.keys.empty()) o.keys = o.dir + "-keys";
  const StatusOr<int> code = Run(o);
  if (code.ok()) return *code;
  std::fprintf(stderr, "choir audit replay: %s\n", MessageOf(code.status()).c_str());
  return 2;
}

}  // namespace choir
