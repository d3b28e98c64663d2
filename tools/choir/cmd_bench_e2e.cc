// `choir bench e2e`: load on a running cluster over real HTTP, with the machine's limits beside
// what it reached.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "commit.h"
#include "common/base/version.h"
#include "common/config/options.h"
#include "tools/choir/commands.h"
#include "tools/choir/machine_rates.h"
#include "tools/choir/model_floor.h"
#include "tools/choir/offline.h"
#include "tools/choir/rest_client.h"
#include "tools/choir/run_file.h"
#include "tools/load/load_client.h"
#include "tools/load/load_plan.h"
#include "tools/load/load_report.h"

namespace choir {
namespace {

constexpr int64_t kLengthMax = 1 << 20;

struct E2eOptions {
  std::string url, state, model, prompt = "512", output = "64", arrival = "closed";
  OfflineOptions floor;  // model_dir empty: no floor
  LoadShape shape;
  LoadTarget target;
  int64_t seed = 1;
  bool json = false;
};

// The most that this machine could decode, with as many sequences at once as there are streams.
struct Limits {
  MachineRates rates;
  double decode_tok_s = 0;  // 0: no model directory was given
  double prefill_tok_s = 0;
};

StatusOr<Limits> MeasureLimits(const E2eOptions& options) {
  Limits limits;
  limits.rates = MeasureMachine(static_cast<int>(std::thread::hardware_concurrency()));
  if (options.floor.model_dir.empty()) return limits;
  CHOIR_ASSIGN_OR_RETURN(const OfflineModel model, LoadOffline(options.floor));
  const FloorInput floor = FloorInputOf(*model.loaded, limits.rates);
  const LoadShape& shape = options.shape;
  const int64_t prompt = (shape.prompt.min + shape.prompt.max) / 2;
  const int64_t output = (shape.output.min + shape.output.max) / 2;
  limits.decode_tok_s = DecodeFloor(floor, options.target.streams, prompt + output / 2);
  limits.prefill_tok_s = PrefillFloor(floor, options.target.streams, prompt, prompt);
  return limits;
}

void PrintTable(const E2eOptions& options, const Limits& limits, const LoadReport& report) {
  std::printf("load     %lld requests, prompts of %s tokens, answers of %s, %s arrivals",
              static_cast<long long>(options.shape.requests), options.prompt.c_str(),
              options.output.c_str(), options.arrival.c_str());
  if (options.shape.arrival != Arrival::kClosed) std::printf(" at %g/s", options.shape.rate);
  std::printf(", %lld streams\n", static_cast<long long>(options.target.streams));
  std::printf("machine  %s\n\n%s", MachineText(limits.rates).c_str(), ToTable(report).c_str());
  if (limits.decode_tok_s <= 0) return;
  std::printf(
      "floor    %.1f output tokens/s at %lld streams (%.1f %% reached), %.1f prompt tokens/s\n",
      limits.decode_tok_s, static_cast<long long>(options.target.streams),
      100 * report.output_tokens_per_s() / limits.decode_tok_s, limits.prefill_tok_s);
}

void PrintJson(const E2eOptions& options, const Limits& limits, const LoadReport& report) {
  nlohmann::ordered_json out;
  out["machine"] = MachineJson(limits.rates);
  out["version"] = std::string(kVersion);
  out["commit"] = CHOIR_COMMIT;
  out["load"] = {{"requests", options.shape.requests},
                 {"prompt", options.prompt},
                 {"output", options.output},
                 {"arrival", options.arrival},
                 {"rate", options.shape.rate},
                 {"streams", options.target.streams},
                 {"seed", options.seed}};
  out["result"] = ToJson(report);
  if (limits.decode_tok_s > 0) {
    out["floor"] = {{"output_tokens_per_s", limits.decode_tok_s},
                    {"prompt_tokens_per_s", limits.prefill_tok_s},
                    {"share", report.output_tokens_per_s() / limits.decode_tok_s}};
  }
  std::printf("%s\n", out.dump(2).c_str());
}

Status FindTarget(E2eOptions* options) {
  CHOIR_ASSIGN_OR_RETURN(const ClusterAddress address, FindCluster(options->url, options->state));
  options->target.url = address.url;
  options->target.api_key = address.api_key;
  options->target.ca = address.ca;
  options->target.model = options->model;
  if (!options->model.empty()) return absl::OkStatus();
  const RestClient client(address.url, address.api_key, address.ca);
  CHOIR_ASSIGN_OR_RETURN(options->target.model, FirstModel(client));
  return absl::OkStatus();
}

// 1: a request failed.
StatusOr<int> Run(E2eOptions options) {
  CHOIR_RETURN_IF_ERROR(FindTarget(&options));
  CHOIR_ASSIGN_OR_RETURN(const Limits limits, MeasureLimits(options));
  const std::vector<PlannedRequest> plan = PlanLoad(options.shape);
  CHOIR_ASSIGN_OR_RETURN(const std::vector<LoadRecord> records,
                         RunLoad(options.target, options.shape.arrival, plan));
  const LoadReport report = ReportOf(records);
  options.json ? PrintJson(options, limits, report) : PrintTable(options, limits, report);
  return report.errors.empty() ? 0 : 1;
}

Status ReadShape(E2eOptions* o) {
  const auto prompt = ReadLengthRange(o->prompt, kLengthMax);
  if (!prompt.ok()) return InvalidArgument("--prompt {}", MessageOf(prompt.status()));
  const auto output = ReadLengthRange(o->output, kLengthMax);
  if (!output.ok()) return InvalidArgument("--tokens {}", MessageOf(output.status()));
  o->shape.prompt = *prompt;
  o->shape.output = *output;
  if (o->arrival == "constant") o->shape.arrival = Arrival::kConstant;
  if (o->arrival == "poisson") o->shape.arrival = Arrival::kPoisson;
  o->shape.seed = static_cast<uint64_t>(o->seed);
  return absl::OkStatus();
}

}  // namespace

int RunBenchE2e(int argc, const char* const* argv) {
  E2eOptions o;
  OptionSet set(
      "choir bench e2e",
      "Puts load on a running cluster over HTTP; prints time to first token, time between "
      "tokens, throughput and errors. Exits 1 when a request failed.",
      "");
  set.Add(&o.url,
          {.flag = "--url", .help = "of the REST API [CHOIR_URL, else the running choir up]"});
  set.Add(&o.state, {.flag = "--state", .help = "state directory of choir up"});
  set.Add(&o.model, {.flag = "--model", .help = "model name [the first one served]"});
  set.Add(&o.prompt, {.flag = "--prompt", .help = "prompt tokens: N or MIN..MAX"});
  set.Add(&o.output, {.flag = "--tokens", .help = "answer tokens: N or MIN..MAX"});
  set.Add(&o.shape.requests, {.flag = "--requests", .help = "requests in all"}, 1, 10'000'000);
  set.Add(&o.target.streams, {.flag = "--streams", .help = "requests open at once, at most"}, 1,
          20000);
  set.AddChoice(
      &o.arrival,
      {.flag = "--arrival",
       .help = "closed: a stream asks again when its answer has ended; constant, poisson: "
               "at --rate, waiting for a free stream counts as latency"},
      {"closed", "constant", "poisson"});
  set.Add(&o.shape.rate, {.flag = "--rate", .help = "requests a second"}, 1e-3, 1e6);
  set.Add(&o.shape.shared_prefix,
          {.flag = "--shared-prefix", .help = "first tokens of a prompt that all share"}, 0,
          kLengthMax);
  set.Add(&o.target.temperature, {.flag = "--temperature", .help = "0 is greedy"}, 0, 2);
  set.Add(&o.target.timeout_seconds, {.flag = "--timeout", .help = "seconds a request may take"},
          0.001, 86400);
  set.Add(&o.seed, {.flag = "--seed", .help = "of prompts, lengths and arrivals"}, 0, INT64_MAX);
  set.Add(&o.floor.model_dir,
          {.flag = "--floor",
           .help = "the served model's directory: prints what this machine could reach at most"});
  set.Add(&o.json, {.flag = "--json", .help = "print JSON"});
  set.AddCheck([&o] { return ReadShape(&o); });
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const StatusOr<int> code = Run(o);
  return code.ok() ? *code : Complain(code.status());
}

}  // namespace choir
