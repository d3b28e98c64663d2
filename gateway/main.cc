// choir-gateway: REST in front of a router. Stateless: one io thread, one stream to the router.
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "common/base/log.h"
#include "common/config/log_options.h"
#include "common/config/options.h"
#include "common/http/admin_server.h"
#include "common/http/failed_start.h"
#include "common/rpc/callback_thread.h"
#include "common/rpc/tracing.h"
#include "common/tls/tls_report.h"
#include "gateway/cors.h"
#include "gateway/gateway_service.h"

namespace choir {
namespace {

constexpr auto kTlsInterval = std::chrono::milliseconds(500);

struct Config {
  std::string listen = "127.0.0.1:8080";
  std::string admin = "127.0.0.1:9080";
  std::vector<std::string> routers = {"127.0.0.1:7070"};
  bool spread_routers = false;
  std::string name = "gateway";
  LogOptions log;
  TraceOptions trace;
  Duration retry_start = Duration(0);
  Duration drain_notice = Duration(0);
  Duration drain_timeout = std::chrono::seconds(600);
  Duration key_known_for = EdgeClientOptions().key_known_for;
  Duration router_timeout = EdgeClientOptions().router_timeout;
  HttpLimits http;
  TlsOptions https, router_tls;
  GatewayOptions service;
  std::vector<std::string> trusted_proxies;

  Config() { router_tls.prefix = "router-"; }
};

Status CheckTlsNeeds(const Config& c) {
  CHOIR_RETURN_IF_ERROR(CheckTlsNeed(c.https, "--listen", c.listen));
  for (const std::string& router : c.routers) {
    CHOIR_RETURN_IF_ERROR(CheckTlsNeed(c.router_tls, "--router", router));
  }
  return absl::OkStatus();
}

Status CheckTlsFiles(const Config& c) {
  CHOIR_RETURN_IF_ERROR(TlsIdentity::Open(c.https, "").status());
  return TlsIdentity::Open(c.router_tls, kGatewayRole).status();
}

void AddHttpLimits(OptionSet* set, HttpLimits* limits) {
  set->AddBytes(&limits->body_bytes_max,
                {"body_bytes_max", "--body-bytes-max", "largest request body"}, 1024,
                uint64_t{1} << 32);
  set->Add(&limits->header_bytes_max,
           {"header_bytes_max", "--header-bytes-max", "largest request header"}, 1024, 1 << 20);
  set->Add(&limits->header_lines_max,
           {"header_lines_max", "--header-lines-max", "most lines of a request header"}, 8, 10000);
  set->Add(&limits->connections_max,
           {"connections_max", "--connections-max", "most open connections"}, 1, 1000000);
  set->AddDuration(&limits->header_timeout,
                   {"header_timeout", "--header-timeout", "time for a request's header"},
                   std::chrono::seconds(1), std::chrono::seconds(59));
  set->AddDuration(&limits->idle_timeout,
                   {"idle_timeout", "--idle-timeout", "an unused connection is closed after"},
                   std::chrono::seconds(1), std::chrono::hours(1));
  set->AddDuration(&limits->body_timeout,
                   {"body_timeout", "--body-timeout", "time for a request's body"},
                   std::chrono::seconds(1), std::chrono::hours(1));
  set->AddDuration(&limits->write_timeout,
                   {"write_timeout", "--write-timeout", "time for one write to a client"},
                   std::chrono::seconds(1), std::chrono::hours(1));
}

void AddStartAndDrain(OptionSet* options, Config* c) {
  options->AddRetryStart(&c->retry_start);
  options->AddDuration(
      &c->drain_notice,
      {"drain_notice", "--drain-notice",
       "at SIGTERM /readyz turns 503 this long before requests are refused, so that balancers "
       "look elsewhere first"},
      Duration(0), std::chrono::hours(1));
  options->AddDuration(
      &c->drain_timeout,
      {"drain_timeout", "--drain-timeout", "running requests get this long at SIGTERM"},
      Duration(0), std::chrono::hours(24));
}

void BeginAnywhere(std::vector<std::string>* routers) {
  const auto first = static_cast<ptrdiff_t>(std::random_device{}() % routers->size());
  std::rotate(routers->begin(), routers->begin() + first, routers->end());
}

std::optional<int> ReadConfig(int argc, char** argv, Config* c) {
  OptionSet options("choir-gateway",
                    "Speaks OpenAI's and DeepSeek's REST APIs in front of a Choir router.",
                    "gateway");
  options.Add(&c->listen,
              {"listen", "--listen", "host:port to serve HTTP on; port 0 picks a free one"});
  options.Add(&c->admin, {"admin", "--admin", "host:port of metrics and health"});
  options.Add(&c->routers,
              {"routers", "--router", "host:port of a router's gRPC; may be repeated"});
  options.Add(&c->spread_routers,
              {"spread_routers", "--spread-routers",
               "begin with a router drawn at random instead of the first, so that many gateways "
               "share the routers [off]"});
  options.Add(&c->name, {"name", "--name", "this gateway's name in logs"});
  AddLogOptions(&options, &c->log);
  AddTraceOptions(&options, &c->trace);
  AddHttpLimits(&options, &c->http);
  options.AddDuration(
      &c->service.request_timeout,
      {"request_timeout", "--request-timeout", "deadline of a request that names none"},
      std::chrono::seconds(1), std::chrono::hours(24));
  options.AddDuration(
      &c->service.keep_alive_interval,
      {"keep_alive_interval", "--keep-alive-interval", "between comments on a silent stream"},
      std::chrono::milliseconds(100), std::chrono::minutes(10));
  options.AddDuration(&c->key_known_for,
                      {"key_known_for", "--key-known-for",
                       "the router is asked about a key before a body is read, but not again so "
                       "soon; it judges every request itself"},
                      Duration(0), std::chrono::minutes(1));
  options.AddDuration(&c->router_timeout,
                      {"router_timeout", "--router-timeout",
                       "a router that does not answer for so long is lost: what runs there goes "
                       "on at another"},
                      std::chrono::seconds(1), std::chrono::minutes(1));
  options.AddBytes(&c->service.stream_bytes_max,
                   {"stream_bytes_max", "--stream-bytes-max",
                    "of one stream kept here for its client; beyond it the router waits"},
                   4096, uint64_t{1} << 32);
  options.Add(&c->service.cors_origins,
              {"cors_origins", "--cors-origin",
               "origin whose pages may use this API from a browser, or *; may be repeated"});
  options.Add(&c->trusted_proxies,
              {"trusted_proxies", "--trusted-proxy",
               "network (10.0.0.0/8) of proxies whose X-Forwarded-For names the client; may be "
               "repeated"});
  AddStartAndDrain(&options, c);
  AddServerTlsOptions(&options, &c->https);
  AddPeerTlsOptions(&options, &c->router_tls);
  options.AddCheck([c]() -> Status {
    if (c->routers.empty()) return InvalidArgument("--router: at least one is needed");
    if (c->spread_routers) BeginAnywhere(&c->routers);
    for (const std::string& origin : c->service.cors_origins) {
      CHOIR_RETURN_IF_ERROR(Annotate(CheckOrigin(origin), "--cors-origin"));
    }
    c->service.trusted_proxies.clear();
    for (const std::string& proxy : c->trusted_proxies) {
      auto network = IpNetwork::Parse(proxy);
      if (!network.ok()) return Annotate(network.status(), "--trusted-proxy");
      c->service.trusted_proxies.push_back(*std::move(network));
    }
    return CheckTlsNeeds(*c);
  });
  options.AddStartCheck([c] { return CheckTlsFiles(*c); });
  return options.Parse(argc, argv);
}

std::string StatusJson(bool draining, const EdgeClient& edge, const TlsReport& tls) {
  nlohmann::ordered_json models = nlohmann::ordered_json::array();
  for (const ApiModel& m : edge.models()) models.push_back(m.id);
  return nlohmann::ordered_json{{"part", "gateway"},
                                {"draining", draining},
                                {"router_connected", edge.connected()},
                                {"reason", edge.connected() ? "" : edge.reason()},
                                {"models", models},
                                {"tls", tls.Json()}}
      .dump();
}

// State that the admin thread may read: refreshed on the io thread, a few times a second.
class AdminView {
 public:
  void Set(Status ready, std::string status, MonoTime now) {
    std::lock_guard lock(mu_);
    ready_ = std::move(ready);
    status_ = std::move(status);
    refreshed_ = now;
  }
  Status ready() const {
    std::lock_guard lock(mu_);
    return ready_;
  }
  std::string status() const {
    std::lock_guard lock(mu_);
    return status_;
  }
  Status live() const {
    std::lock_guard lock(mu_);
    const double silent = Seconds(Clock::Real().Now() - refreshed_);
    if (silent > 10) return Unavailable("the io thread has not run for {:.1f} s", silent);
    return absl::OkStatus();
  }

 private:
  mutable std::mutex mu_;
  Status ready_ = Unavailable("starting");
  std::string status_ = "{}";
  MonoTime refreshed_ = Clock::Real().Now();
};

class Gateway {
 public:
  explicit Gateway(Config config)
      : config_(std::move(config)),
        gateway_metrics_(&metrics_),
        tracing_(config_.trace, "gateway", config_.name, &metrics_),
        signals_(io_, SIGINT, SIGTERM),
        tick_(io_) {}

  // Serves until a signal ends it. An error: it could not start.
  Status Run() {
    CHOIR_ASSIGN_OR_RETURN(const auto https, TlsIdentity::Open(config_.https, ""));
    CHOIR_ASSIGN_OR_RETURN(const auto router_tls,
                           TlsIdentity::Open(config_.router_tls, kGatewayRole));
    tls_report_ =
        std::make_unique<TlsReport>(&metrics_, std::map<std::string, std::shared_ptr<TlsIdentity>>{
                                                   {"https", https}, {"router", router_tls}});
    for (const auto& identity : {https, router_tls}) {
      if (identity != nullptr) identity->Watch(kTlsInterval);
    }
    edge_ = EdgeClient::Make(io_, {.routers = config_.routers,
                                   .name = config_.name,
                                   .tls = router_tls,
                                   .tls_options = config_.router_tls,
                                   .router_timeout = config_.router_timeout,
                                   .key_known_for = config_.key_known_for});
    service_ = std::make_unique<GatewayService>(io_, edge_.get(), &gateway_metrics_,
                                                tracing_.tracer(), config_.service);
    CHOIR_ASSIGN_OR_RETURN(server_, HttpServer::Make(
                                        io_, config_.listen, config_.http,
                                        [this](HttpExchange& e) { return service_->Handle(e); },
                                        [this](int status, const std::string& id) {
                                          service_->CountRefused(status, id);
                                        },
                                        https));
    CHOIR_ASSIGN_OR_RETURN(
        auto admin,
        AdminServer::Start(config_.admin, {.metrics = [this] { return MetricsText(); },
                                           .live = [this] { return view_.live(); },
                                           .ready = [this] { return view_.ready(); },
                                           .status = [this] { return view_.status(); }}));
    std::printf("listening %s=%s admin=%s\n", https != nullptr ? "https" : "http",
                server_->address().c_str(), admin->address().c_str());
    std::fflush(stdout);
    WaitSignal();
    Tick();
    io_.run();
    admin.reset();
    server_.reset();
    return absl::OkStatus();
  }

 private:
  // The admin thread's.
  std::string MetricsText() {
    gateway_metrics_.SetReloadSuccess(tls_report_->Refresh());
    return metrics_.Text();
  }

  void WaitSignal() {
    signals_.async_wait([this](boost::system::error_code error, int) {
      if (error) return;
      if (draining_) return io_.stop();  // a second signal
      draining_ = true;
      refuse_from_ = Clock::Real().Now() + config_.drain_notice;
      CHOIR_LOG(info, "draining: {} requests run", server_->running_requests());
      gateway_metrics_.SetDraining(true);
      server_->EndKeepAlive();
      if (config_.drain_notice == Duration(0)) Refuse();
      WaitSignal();
    });
  }

  void Refuse() {
    refusing_ = true;
    drain_until_ = Clock::Real().Now() + config_.drain_timeout;
    service_->SetDraining();
    server_->Drain();
  }

  void Tick() {
    const MonoTime now = Clock::Real().Now();
    Status ready = absl::OkStatus();
    if (draining_) {
      ready = Unavailable("draining");
    } else if (!edge_->connected()) {
      ready = Unavailable("no router: {}", edge_->reason());
    }
    view_.Set(std::move(ready), StatusJson(draining_, *edge_, *tls_report_), now);
    if (draining_ && !refusing_ && now >= refuse_from_) Refuse();
    if (refusing_ && (server_->running_requests() == 0 || now > drain_until_)) return io_.stop();
    tick_.expires_after(std::chrono::milliseconds(100));
    tick_.async_wait([this](boost::system::error_code error) {
      if (!error) Tick();
    });
  }

  const Config config_;
  Metrics metrics_{"gateway"};
  GatewayMetrics gateway_metrics_;
  const Tracing tracing_;
  std::unique_ptr<TlsReport> tls_report_;
  AdminView view_;
  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_;
  boost::asio::steady_timer tick_;
  std::unique_ptr<EdgeClient> edge_;
  std::unique_ptr<GatewayService> service_;
  std::unique_ptr<HttpServer> server_;
  bool draining_ = false, refusing_ = false;
  MonoTime refuse_from_, drain_until_;
};

int Main(int argc, char** argv) {
  UseOneCallbackThread();
  Config config;
  if (const auto code = ReadConfig(argc, argv, &config)) return *code;
  (void)InitLog(config.name, config.log.level, config.log.format);
  std::signal(SIGPIPE, SIG_IGN);
  const Status served = Gateway(config).Run();
  if (served.ok()) return 0;
  CHOIR_LOG(error, "{}", MessageOf(served));
  return StayOrRetry("gateway", config.admin, served, config.retry_start, argv);
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) { return choir::Main(argc, argv); }
