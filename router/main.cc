// choir-router: admits, dispatches and follows requests. See --help and docs/life_of_a_request.md.
#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "common/base/log.h"
#include "common/base/print_error.h"
#include "common/config/log_options.h"
#include "common/config/options.h"
#include "common/config/state_dir.h"
#include "common/http/failed_start.h"
#include "common/rpc/callback_thread.h"
#include "common/tls/tls_identity.h"
#include "router/limits/limit_config.h"
#include "router/membership/discovery.h"
#include "router/policy/policy_options.h"
#include "router/rpc/router_process.h"

namespace choir {
namespace {

struct RouterConfig {
  RouterOptions options;
  int64_t default_max_tokens = 512;
  int64_t requests_max = 16'000;
  int64_t text_threads = 2;
  int64_t retry_min = RetryLimits{}.min;
  int64_t breaker_failures = BreakerLimits{}.failures;
  int64_t resume_streams_max = 10'000;
  uint64_t stream_bytes_max = 4 << 20;
  Duration retry_start = Duration(0);
  Duration drain_notice = Duration(0);
  Duration drain_timeout = std::chrono::seconds(600);
  std::string audit_class = "enforced";
  LogOptions log;
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
  set->Add(&o.identity.keys_file, {.key = "keys",
                                   .flag = "--keys",
                                   .help = "file of API keys, made by `choir keys add`",
                                   .required = true});
  set->Add(
      &o.workers,
      {.key = "workers",
       .flag = "--worker",
       .help = "host:port of a worker, or dns:name:port for a worker at every address of the name; "
               "may be repeated"});
  set->Add(&o.workers_file, {.key = "workers_file",
                             .flag = "--workers-file",
                             .help = "YAML or JSON list of workers, followed while it changes"});
  set->AddDuration(&o.dns_interval,
                   {.key = "dns_interval",
                    .flag = "--dns-interval",
                    .help = "how often the addresses of dns:name:port workers are looked up"},
                   std::chrono::milliseconds(100), std::chrono::hours(1));
}

// Who is let in besides the holders of keys.
void AddIdentity(RouterConfig* c, OptionSet* set) {
  IdentityOptions& o = c->options.identity;
  JwtOptions& jwt = o.jwt;
  set->Add(&jwt.jwks, {.key = "jwt.jwks",
                       .help = "JWK set of an identity provider, whose tokens are taken as keys; "
                               "followed while it changes"});
  set->Add(&jwt.issuer, {.key = "jwt.issuer", .help = "iss of its tokens"});
  set->Add(&jwt.audiences, {.key = "jwt.audience", .help = "list: aud of tokens for us"});
  set->Add(&jwt.tenant_claim,
           {.key = "jwt.tenant_claim", .help = "claim, or JSON pointer, that names the tenant"});
  set->Add(&jwt.models_claim,
           {.key = "jwt.models_claim", .help = "claim that names the models it may use"});
  set->Add(&jwt.networks_claim,
           {.key = "jwt.networks_claim", .help = "claim that names where it may be used from"});
  set->Add(&jwt.class_claim,
           {.key = "jwt.class_claim", .help = "claim that names its class of admission"});
  set->AddDuration(&jwt.leeway, {.key = "jwt.leeway", .help = "by which clocks may differ"},
                   Duration(0), std::chrono::minutes(10));
  set->AddDuration(&jwt.cache_time,
                   {.key = "jwt.cache_time", .help = "a verified token is known for so long"},
                   Duration(0), std::chrono::hours(1));
  set->Add(&jwt.cache_max,
           {.key = "jwt.cache_max", .help = "verified tokens that are known at once"}, 0,
           1'000'000);
  set->AddSubtree("certificates",
                  "list: which tenants the holders of client certificates (gRPC) are",
                  [&o](const YAML::Node& list) -> Status {
                    CHOIR_ASSIGN_OR_RETURN(o.certificates, ReadCertificateRules(list));
                    return absl::OkStatus();
                  });
  set->AddCheck([c] {
    const IdentityOptions& identity = c->options.identity;
    CHOIR_RETURN_IF_ERROR(CheckJwtOptions(identity.jwt));
    if (identity.certificates.empty() || c->options.tls.configured()) return absl::OkStatus();
    return InvalidArgument("certificates: clients show them over TLS only: give --tls-cert");
  });
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
            .help = "requests running and queued at once, a sixteenth kept for each class"},
           1, 1'000'000);
  set->AddDuration(&o.settings.request_timeout,
                   {.key = "request_timeout",
                    .flag = "--request-timeout",
                    .help = "deadline of requests that give none"},
                   std::chrono::seconds(1), std::chrono::hours(24));
  set->AddDuration(
      &o.settings.worker_stall_timeout,
      {.key = "worker_stall_timeout",
       .flag = "--worker-stall-timeout",
       .help = "a worker with work that makes no progress for so long, silently or not, is "
               "cut off"},
      std::chrono::seconds(1), std::chrono::hours(1));
  set->AddRetryStart(&c->retry_start);
  set->AddDuration(&c->drain_notice,
                   {.key = "drain_notice",
                    .flag = "--drain-notice",
                    .help = "at SIGTERM gateways and /readyz are told this long before requests "
                            "are refused, so that they look elsewhere first"},
                   std::chrono::seconds(0), std::chrono::hours(1));
  set->AddDuration(&c->drain_timeout,
                   {.key = "drain_timeout",
                    .flag = "--drain-timeout",
                    .help = "how long running requests may finish after SIGTERM"},
                   std::chrono::seconds(0), std::chrono::hours(24));
  set->AddBytes(
      &c->stream_bytes_max,
      {.key = "stream_bytes_max",
       .flag = "--stream-bytes-max",
       .help = "kept of one stream for a client that reads slowly, beyond which it is cut"},
      1 << 20, uint64_t{1} << 32);
  set->Add(&c->text_threads,
           {.key = "text_threads",
            .flag = "--text-threads",
            .help = "threads that render and tokenize prompts"},
           1, 64);
}

Status CheckBudgets(const std::vector<CertificateRule>& rules, const TokenPrices& prices) {
  for (const CertificateRule& rule : rules) {
    const std::string& name = rule.dns.empty() ? rule.spiffe : rule.dns;
    CHOIR_RETURN_IF_ERROR(
        Annotate(CheckBudget(rule.rights->limits, prices), "certificates: " + name));
  }
  return absl::OkStatus();
}

// What tenants may use, and where that is counted.
void AddTenants(RouterOptions* o, OptionSet* set) {
  set->AddSubtree("tenants", "what each tenant may use",
                  [o](const YAML::Node& node) { return ReadTenants(node, &o->followed.limits); });
  set->AddSubtree("limits", "what all may use together, and tenants that are not listed",
                  [o](const YAML::Node& node) { return ReadLimits(node, &o->followed.limits); });
  set->AddSubtree(
      "admission", "classes of requests: who waits for whom, and how long",
      [o](const YAML::Node& node) { return ReadAdmission(node, &o->followed.limits.admission); });
  set->AddCheck([o] {
    CHOIR_RETURN_IF_ERROR(CheckLimitConfig(o->followed.limits));
    return CheckBudgets(o->identity.certificates, o->followed.limits.prices);
  });
  AddRedisOptions(&o->redis, &o->tls, set);
}

// What becomes of requests and workers when something breaks.
void AddRecovery(RouterConfig* c, OptionSet* set) {
  RouterSettings& s = c->options.settings;
  set->Add(&s.retry.ratio,
           {.key = "retry.ratio",
            .help = "retries to requests that are allowed before a request's first token"},
           0, 1);
  set->Add(&c->retry_min,
           {.key = "retry.min", .help = "retries within retry.window that are always allowed"}, 0,
           1'000'000);
  set->AddDuration(&s.retry.window, {.key = "retry.window", .help = "over which both are counted"},
                   std::chrono::milliseconds(100), std::chrono::hours(1));
  set->Add(&c->breaker_failures,
           {.key = "breaker.failures",
            .help = "within breaker.window, after which a worker gets nothing for a while"},
           1, 1000);
  set->AddDuration(&s.breaker.window,
                   {.key = "breaker.window", .help = "for which a failure counts"},
                   std::chrono::seconds(1), std::chrono::hours(1));
  set->AddDuration(&s.breaker.open_for,
                   {.key = "breaker.open_for", .help = "then one sequence is tried there"},
                   std::chrono::milliseconds(100), std::chrono::hours(1));
  set->AddDuration(
      &s.reconcile_interval,
      {.key = "reconcile_interval", .help = "between two lists to each worker of what runs there"},
      std::chrono::milliseconds(100), std::chrono::hours(1));
  set->AddDuration(&s.resume_grace,
                   {.key = "resume_grace",
                    .flag = "--resume-grace",
                    .help = "how long a stream can be taken up at another gateway when its own is "
                            "lost; 0s: not"},
                   std::chrono::seconds(0), std::chrono::hours(1));
  set->Add(&c->resume_streams_max,
           {.key = "resume_streams_max",
            .help = "ended streams that are kept until their clients have the end"},
           1, 10'000'000);
}

// What is put on record, and how surely.
void AddAudit(RouterConfig* c, OptionSet* set) {
  AuditLogOptions& a = c->options.audit;
  a.store.dir = DefaultStateDir() + "/audit";
  set->AddChoice(&c->audit_class,
                 {.key = "audit.class",
                  .flag = "--audit-class",
                  .help = "enforced: on the disk before dispatch; bounded: within "
                          "audit.sync_interval; best-effort: losses are counted"},
                 {"enforced", "bounded", "best-effort"});
  set->Add(
      &a.store.dir,
      {.key = "audit.dir", .flag = "--audit-dir", .help = "directory of this router's audit log"});
  set->Add(&a.store.keys_dir,
           {.key = "audit.keys_dir",
            .flag = "--audit-keys",
            .help = "directory of its signing key and the tenants' keys [DIR-keys]"});
  set->Add(&a.capture_content,
           {.key = "audit.capture_content",
            .flag = "--audit-capture-content",
            .help = "record prompts and answers, encrypted with the tenant's key"});
  set->AddBytes(&a.store.segment_bytes,
                {.key = "audit.segment_bytes", .help = "a segment is sealed once it is larger"},
                uint64_t{64} << 10, uint64_t{1} << 34);
  set->AddDuration(&a.store.segment_time, {.key = "audit.segment_time", .help = "or older"},
                   std::chrono::seconds(1), std::chrono::hours(24 * 366));
  set->AddDuration(&a.checkpoint_interval,
                   {.key = "audit.checkpoint_interval", .help = "between signed checkpoints"},
                   std::chrono::milliseconds(10), std::chrono::hours(24));
  set->AddDuration(&a.sync_interval,
                   {.key = "audit.sync_interval", .help = "class bounded: how much may be lost"},
                   std::chrono::milliseconds(1), std::chrono::minutes(1));
  set->AddCheck([c, &a] {
    if (a.store.dir.empty())
      return InvalidArgument("audit.dir is empty: no request is served unrecorded");
    if (a.store.keys_dir.empty()) a.store.keys_dir = a.store.dir + "-keys";
    if (c->audit_class == "bounded") a.durability = AuditClass::kBounded;
    if (c->audit_class == "best-effort") a.durability = AuditClass::kBestEffort;
    return absl::OkStatus();
  });
}

void AddOptions(RouterConfig* c, OptionSet* set) {
  RouterOptions& o = c->options;
  AddPlaces(c, set);
  AddIdentity(c, set);
  AddLimits(c, set);
  AddRecovery(c, set);
  AddAudit(c, set);
  AddPolicyOptions(&o.followed.policy, set);
  AddPeerTlsOptions(set, &o.tls);
  set->Add(&o.reflection,
           {.key = "reflection", .flag = "--reflection", .help = "serve gRPC reflection"});
  AddLogOptions(set, &c->log);
  AddTraceOptions(set, &o.trace);
  AddTenants(&o, set);
  AddResultCacheOptions(&o.results, &o.redis, set);
  set->AddSubtree("content_rules",
                  "what is redacted or refused in prompts and answers; see docs/content_rules.md",
                  [&o](const YAML::Node& node) {
                    CHOIR_ASSIGN_OR_RETURN(ContentRuleBook book, ContentRuleBook::Parse(node));
                    o.followed.content = std::make_shared<ContentRuleBook>(std::move(book));
                    return absl::OkStatus();
                  });
  set->AddCheck([c] {
    if (c->options.workers.empty() && c->options.workers_file.empty()) {
      return InvalidArgument("no worker is named: give --worker host:port or --workers-file");
    }
    for (const std::string& address : c->options.workers) {
      CHOIR_RETURN_IF_ERROR(CheckWorkerAddress(address));
      CHOIR_RETURN_IF_ERROR(CheckTlsNeed(c->options.tls, "--worker", address));
    }
    return CheckTlsNeed(c->options.tls, "--listen", c->options.listen);
  });
  set->AddStartCheck([c] { return TlsIdentity::Open(c->options.tls, kRouterRole).status(); });
}

// Waits for SIGTERM or SIGINT, which all threads block.
bool SignalWithin(const sigset_t& signals, std::chrono::nanoseconds time) {
  const timespec wait = {static_cast<time_t>(time.count() / 1'000'000'000),
                         static_cast<long>(time.count() % 1'000'000'000)};
  return sigtimedwait(&signals, nullptr, &wait) > 0;
}

struct Options {
  RouterConfig config;
  OptionSet set{"choir-router",
                "Admits requests, dispatches them to ranks and follows them to their end.",
                "router"};
  Options() { AddOptions(&config, &set); }
};

int Main(int argc, char** argv) {
  UseOneCallbackThread();
  Options parsed;
  RouterConfig& config = parsed.config;
  if (const auto exit_code = parsed.set.Parse(argc, argv)) return *exit_code;
  config.options.config_file = parsed.set.config_file();
  config.options.read_again = [argc, argv]() -> StatusOr<FollowedOptions> {
    Options again;
    CHOIR_RETURN_IF_ERROR(again.set.ParseQuietly(argc, argv));
    return std::move(again.config.options.followed);
  };
  config.options.default_max_tokens = static_cast<uint32_t>(config.default_max_tokens);
  config.options.requests_max = static_cast<uint64_t>(config.requests_max);
  config.options.edge.held_bytes_max = static_cast<size_t>(config.stream_bytes_max);
  config.options.loop.text_threads = static_cast<size_t>(config.text_threads);
  config.options.settings.resume_streams_max = static_cast<size_t>(config.resume_streams_max);
  config.options.settings.retry.min = static_cast<uint64_t>(config.retry_min);
  config.options.settings.breaker.failures = static_cast<uint32_t>(config.breaker_failures);

  const sigset_t signals = EndSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a write beyond a limit on file sizes fails, as to a full disk
  if (const Status status = InitLog("router", config.log.level, config.log.format); !status.ok()) {
    PrintError("choir-router", status);
    return 2;
  }
  auto router = RouterProcess::Start(config.options);
  if (!router.ok()) {
    CHOIR_LOG(error, "{}", MessageOf(router.status()));
    return StayOrRetry("router", config.options.admin, router.status(), config.retry_start, argv);
  }
  std::printf("listening grpc=%s admin=%s\n", (*router)->grpc_address().c_str(),
              (*router)->admin_address().c_str());
  std::fflush(stdout);

  while (!SignalWithin(signals, std::chrono::hours(1))) {
  }
  CHOIR_LOG(info, "draining; another signal ends at once");
  (*router)->AnnounceDrain();
  const bool at_once =
      config.drain_notice > Duration(0) && SignalWithin(signals, config.drain_notice);
  (*router)->BeginDrain();
  const MonoTime end = Clock::Real().Now() + config.drain_timeout;
  while (!at_once && !(*router)->Idle() && Clock::Real().Now() < end) {
    if (SignalWithin(signals, std::chrono::milliseconds(50))) break;
  }
  (*router)->Stop();
  return 0;
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) { return choir::Main(argc, argv); }
