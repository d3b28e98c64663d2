// choir-gateway: REST in front of a router. Stateless: one io thread, one stream to the router.
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/base/log.h"
#include "common/config/options.h"
#include "common/http/admin_server.h"
#include "gateway/gateway_service.h"

namespace choir {
namespace {

struct Config {
  std::string listen = "127.0.0.1:8080";
  std::string admin = "127.0.0.1:9080";
  std::vector<std::string> routers = {"127.0.0.1:7070"};
  std::string name = "gateway";
  std::string log_level = "info";
  Duration drain_timeout = std::chrono::seconds(600);
  uint64_t stream_bytes_max = 4 << 20;
  HttpLimits http;
  GatewayOptions service;
};

std::optional<int> ReadConfig(int argc, char** argv, Config* c) {
  OptionSet options("choir-gateway",
                    "Speaks OpenAI's and DeepSeek's REST APIs in front of a Choir router.",
                    "gateway");
  options.Add(&c->listen,
              {"listen", "--listen", "host:port to serve HTTP on; port 0 picks a free one"});
  options.Add(&c->admin, {"admin", "--admin", "host:port of metrics and health"});
  options.Add(&c->routers,
              {"routers", "--router", "host:port of a router's gRPC; may be repeated"});
  options.Add(&c->name, {"name", "--name", "this gateway's name in logs"});
  options.AddChoice(&c->log_level, {"log_level", "--log-level", "least level that is logged"},
                    {"trace", "debug", "info", "warn", "error", "off"});
  options.AddBytes(&c->http.body_bytes_max,
                   {"body_bytes_max", "--body-bytes-max", "largest request body"}, 1024,
                   uint64_t{1} << 32);
  options.Add(&c->http.header_bytes_max,
              {"header_bytes_max", "--header-bytes-max", "largest request header"}, 1024, 1 << 20);
  options.Add(&c->http.header_lines_max,
              {"header_lines_max", "--header-lines-max", "most lines of a request header"}, 8,
              10000);
  options.Add(&c->http.connections_max,
              {"connections_max", "--connections-max", "most open connections"}, 1, 1000000);
  options.AddDuration(&c->http.header_timeout,
                      {"header_timeout", "--header-timeout", "time for a request's header"},
                      std::chrono::seconds(1), std::chrono::seconds(59));
  options.AddDuration(&c->http.idle_timeout,
                      {"idle_timeout", "--idle-timeout", "an unused connection is closed after"},
                      std::chrono::seconds(1), std::chrono::hours(1));
  options.AddDuration(&c->http.body_timeout,
                      {"body_timeout", "--body-timeout", "time for a request's body"},
                      std::chrono::seconds(1), std::chrono::hours(1));
  options.AddDuration(&c->http.write_timeout,
                      {"write_timeout", "--write-timeout", "time for one write to a client"},
                      std::chrono::seconds(1), std::chrono::hours(1));
  options.AddDuration(
      &c->service.request_timeout,
      {"request_timeout", "--request-timeout", "deadline of a request that names none"},
      std::chrono::seconds(1), std::chrono::hours(24));
  options.AddDuration(
      &c->service.keep_alive_interval,
      {"keep_alive_interval", "--keep-alive-interval", "between comments on a silent stream"},
      std::chrono::milliseconds(100), std::chrono::minutes(10));
  options.AddBytes(&c->stream_bytes_max,
                   {"stream_bytes_max", "--stream-bytes-max",
                    "unsent bytes of one stream before its slow reader is cut off"},
                   4096, uint64_t{1} << 32);
  options.AddDuration(
      &c->drain_timeout,
      {"drain_timeout", "--drain-timeout", "running requests get this long at SIGTERM"},
      Duration(0), std::chrono::hours(24));
  options.AddCheck([c]() -> Status {
    if (c->routers.empty()) return InvalidArgument("--router: at least one is needed");
    return absl::OkStatus();
  });
  return options.Parse(argc, argv);
}

std::string StatusJson(bool draining, const EdgeClient& edge) {
  nlohmann::ordered_json models = nlohmann::ordered_json::array();
  for (const ApiModel& m : edge.models()) models.push_back(m.id);
  return nlohmann::ordered_json{{"part", "gateway"},
                                {"draining", draining},
                                {"router_connected", edge.connected()},
                                {"reason", edge.connected() ? "" : edge.reason()},
                                {"models", models}}
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
        signals_(io_, SIGINT, SIGTERM),
        tick_(io_) {}

  int Run() {
    edge_ = EdgeClient::Make(io_, {.routers = config_.routers, .name = config_.name});
    service_ =
        std::make_unique<GatewayService>(io_, edge_.get(), &gateway_metrics_, config_.service);
    auto server = HttpServer::Make(io_, config_.listen, config_.http,
                                   [this](HttpExchange& e) { return service_->Handle(e); });
    auto admin = AdminServer::Start(config_.admin, {.metrics = [this] { return metrics_.Text(); },
                                                    .live = [this] { return view_.live(); },
                                                    .ready = [this] { return view_.ready(); },
                                                    .status = [this] { return view_.status(); }});
    for (const Status& s : {server.status(), admin.status()}) {
      if (!s.ok()) CHOIR_LOG(error, "{}", MessageOf(s));
    }
    if (!server.ok() || !admin.ok()) return 1;
    server_ = std::move(*server);
    std::printf("listening http=%s admin=%s\n", server_->address().c_str(),
                (*admin)->address().c_str());
    std::fflush(stdout);
    WaitSignal();
    Tick();
    io_.run();
    admin->reset();
    server_.reset();
    return 0;
  }

 private:
  void WaitSignal() {
    signals_.async_wait([this](boost::system::error_code error, int) {
      if (error) return;
      if (draining_) return io_.stop();  // a second signal
      draining_ = true;
      drain_until_ = Clock::Real().Now() + config_.drain_timeout;
      CHOIR_LOG(info, "draining: {} requests run", server_->running_requests());
      gateway_metrics_.SetDraining(true);
      service_->SetDraining();
      server_->Drain();
      WaitSignal();
    });
  }

  void Tick() {
    const MonoTime now = Clock::Real().Now();
    Status ready = absl::OkStatus();
    if (draining_) {
      ready = Unavailable("draining");
    } else if (!edge_->connected()) {
      ready = Unavailable("no router: {}", edge_->reason());
    }
    view_.Set(std::move(ready), StatusJson(draining_, *edge_), now);
    if (draining_ && (server_->running_requests() == 0 || now > drain_until_)) return io_.stop();
    tick_.expires_after(std::chrono::milliseconds(100));
    tick_.async_wait([this](boost::system::error_code error) {
      if (!error) Tick();
    });
  }

  const Config config_;
  Metrics metrics_{"gateway"};
  GatewayMetrics gateway_metrics_;
  AdminView view_;
  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_;
  boost::asio::steady_timer tick_;
  std::unique_ptr<EdgeClient> edge_;
  std::unique_ptr<GatewayService> service_;
  std::unique_ptr<HttpServer> server_;
  bool draining_ = false;
  MonoTime drain_until_;
};

int Main(int argc, char** argv) {
  Config config;
  if (const auto code = ReadConfig(argc, argv, &config)) return *code;
  config.service.stream_bytes_max = static_cast<size_t>(config.stream_bytes_max);
  (void)InitLog(config.name, config.log_level);
  std::signal(SIGPIPE, SIG_IGN);
  return Gateway(std::move(config)).Run();
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) { return choir::Main(argc, argv); }
