// choir-router: admits, dispatches and follows requests. See --help and docs/life_of_a_request.md.
#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <cstdio>

#include "common/base/log.h"
#include "common/config/options.h"
#include "router/membership/discovery.h"
#include "router/rpc/router_process.h"

namespace choir {
namespace {

struct RouterConfig {
  RouterOptions options;
  int64_t default_max_tokens = 512;
  int64_t requests_max = 10'000;
  int64_t text_threads = 2;
  Duration drain_timeout = std::chrono::seconds(600);
  std::string log_level = "info";
};

// Where things are.
void AddPlaces(RouterConfig* c, OptionSet* set) {
  RouterOptions& o = c->options;
  set->Add(&o.listen, {.key = "listen",
                       .flag = "--listen",
                       .help = "host:port of the gRPC server; port 0 picks a free one"});
  set->Add(&o.admin, {.key = "admin",
                      .flag = "--admin",
                      .help = "host:port of /metrics, /livez, /readyz, /statusz"});
  set->Add(&o.model_dir, {.key = "model",
                          .flag = "--model",
                          .help = "model directory: tokenizer, chat template, config",
                          .required = true});
  set->Add(&o.model_name, {.key = "model_name",
                           .flag = "--model-name",
                           .help = "name that clients ask for (default: the directory's name)"});
  set->Add(&o.keys_file, {.key = "keys",
                          .flag = "--keys",
                          .help = "file of API keys, made by `choir keys add`",
                          .required = true});
  set->Add(
      &o.workers,
      {.key = "workers", .flag = "--worker", .help = "host:port of a worker; may be repeated"});
  set->Add(&o.workers_file, {.key = "workers_file",
                             .flag = "--workers-file",
                             .help = "YAML or JSON list of workers, followed while it changes"});
}

// How much and how long.
void AddLimits(RouterConfig* c, OptionSet* set) {
  RouterOptions& o = c->options;
  set->Add(&c->default_max_tokens,
           {.key = "default_max_tokens",
            .flag = "--default-max-tokens",
            .help = "max_tokens of requests that give none"},
           1, 1'000'000);
  set->Add(&c->requests_max,
           {.key = "max_requests",
            .flag = "--max-requests",
            .help = "requests running and queued at once"},
           1, 1'000'000);
  set->AddDuration(&o.settings.request_timeout,
                   {.key = "request_timeout",
                    .flag = "--request-timeout",
                    .help = "deadline of requests that give none"},
                   std::chrono::seconds(1), std::chrono::hours(24));
  set->AddDuration(&o.settings.worker_stall_timeout,
                   {.key = "worker_stall_timeout",
                    .flag = "--worker-stall-timeout",
                    .help = "a worker with work that is silent for so long is cut off"},
                   std::chrono::seconds(1), std::chrono::hours(1));
  set->AddDuration(&c->drain_timeout,
                   {.key = "drain_timeout",
                    .flag = "--drain-timeout",
                    .help = "how long running requests may finish after SIGTERM"},
                   std::chrono::seconds(0), std::chrono::hours(24));
  set->Add(&c->text_threads,
           {.key = "text_threads",
            .flag = "--text-threads",
            .help = "threads that render and tokenize prompts"},
           1, 64);
}

void AddOptions(RouterConfig* c, OptionSet* set) {
  RouterOptions& o = c->options;
  AddPlaces(c, set);
  AddLimits(c, set);
  set->Add(&o.reflection,
           {.key = "reflection", .flag = "--reflection", .help = "serve gRPC reflection"});
  set->AddChoice(&c->log_level,
                 {.key = "log_level", .flag = "--log-level", .help = "least level that is logged"},
                 {"trace", "debug", "info", "warn", "error", "off"});
  // Known names of the configuration whose substance is not built: better refused than taken for
  // granted.
  for (const char* key : {"tenants", "audit", "redis"}) {
    set->AddSubtree(key, "not built yet; refused", [key](const YAML::Node&) {
      return Unimplemented("'{}' is not built yet in this version: remove it", key);
    });
  }
  set->AddCheck([c] {
    if (c->options.workers.empty() && c->options.workers_file.empty()) {
      return InvalidArgument("no worker is named: give --worker host:port or --workers-file");
    }
    for (const std::string& address : c->options.workers) {
      CHOIR_RETURN_IF_ERROR(CheckWorkerAddress(address));
    }
    return absl::OkStatus();
  });
}

// Waits for SIGTERM or SIGINT, which all threads block.
bool SignalWithin(const sigset_t& signals, std::chrono::nanoseconds time) {
  const timespec wait = {static_cast<time_t>(time.count() / 1'000'000'000),
                         static_cast<long>(time.count() % 1'000'000'000)};
  return sigtimedwait(&signals, nullptr, &wait) > 0;
}

int Main(int argc, char** argv) {
  RouterConfig config;
  OptionSet set("choir-router",
                "Admits requests, dispatches them to ranks and follows them to their end.",
                "router");
  AddOptions(&config, &set);
  if (const auto exit_code = set.Parse(argc, argv)) return *exit_code;
  config.options.default_max_tokens = static_cast<uint32_t>(config.default_max_tokens);
  config.options.requests_max = static_cast<uint64_t>(config.requests_max);
  config.options.loop.text_threads = static_cast<size_t>(config.text_threads);

  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  if (const Status status = InitLog("router", config.log_level); !status.ok()) {
    std::fprintf(stderr, "choir-router: %s\n", MessageOf(status).c_str());
    return 2;
  }
  auto router = RouterProcess::Start(config.options);
  if (!router.ok()) {
    std::fprintf(stderr, "choir-router: %s\n", MessageOf(router.status()).c_str());
    return 1;
  }
  std::printf("listening grpc=%s admin=%s\n", (*router)->grpc_address().c_str(),
              (*router)->admin_address().c_str());
  std::fflush(stdout);

  while (!SignalWithin(signals, std::chrono::hours(1))) {
  }
  CHOIR_LOG(info, "draining; another signal ends at once");
  (*router)->BeginDrain();
  const MonoTime end = Clock::Real().Now() + config.drain_timeout;
  while (!(*router)->Idle() && Clock::Real().Now() < end) {
    if (SignalWithin(signals, std::chrono::milliseconds(50))) break;
  }
  (*router)->Stop();
  return 0;
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) { return choir::Main(argc, argv); }
