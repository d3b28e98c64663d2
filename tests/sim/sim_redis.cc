#include "tests/sim/sim_redis.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "common/base/check.h"
#include "router/limits/redis/limit_script.h"
#include "router/limits/redis/redis_connection.h"
#include "tests/support/redis_server.h"
#include "tests/support/task_inbox.h"

namespace choir::sim {
namespace {

using Reply = StatusOr<std::vector<std::string>>;

// The server of this process, asked one call after the other.
class Server {
 public:
  Server() : server_(RedisServer::Start()) {
    CHOIR_CHECK(server_ != nullptr);  // Debian's redis-server is not installed
    connection_ = ConnectToRedis({.address = *ParseRedisUrl(server_->url()),
                                  .script = kLimitScript,
                                  .timeout = std::chrono::seconds(30)},
                                 inbox_.post());
    connection_->SetEvents({.up = [this] { up_ = true; },
                            .down = [](const std::string&) { CHOIR_CHECK(false); },
                            .tick = [] {}});
    CHOIR_CHECK(inbox_.RunUntil([this] { return up_; }));
  }

  Reply Run(ScriptCall call) {
    std::optional<Reply> got;
    connection_->Run(std::move(call), [&got](const Reply& reply) { got = reply; });
    CHOIR_CHECK(inbox_.RunUntil([&got] { return got.has_value(); }));
    return *std::move(got);
  }

 private:
  const std::unique_ptr<RedisServer> server_;
  TaskInbox inbox_;
  bool up_ = false;
  std::unique_ptr<ScriptRunner> connection_;
};

Server& TheServer() {
  static Server server;
  return server;
}

constexpr auto kTimeout = std::chrono::milliseconds(100);
constexpr auto kTick = std::chrono::milliseconds(200);

}  // namespace

class SimRedis::Link final : public ScriptRunner {
 public:
  Link(SimRedis* redis, Later later) : redis_(redis), later_(std::move(later)) {}

  void SetEvents(Events events) override {
    events_ = std::move(events);
    Connect();
  }

  void Run(ScriptCall call, Done done) override {
    if (!up_) {
      later_({}, [done = std::move(done)] { done(Unavailable("not connected")); });
      return;
    }
    const uint64_t id = next_++;
    const bool alive = later_(kTimeout, [this, id] {
      if (waiting_.contains(id)) Drop("no answer in time");
    });
    if (!alive) return;
    waiting_[id] = std::move(done);
    // What is on its way arrives, whatever becomes of who sent it.
    there_ = std::max(there_, redis_->time_->Now() + Delay());
    redis_->time_->At(there_, [redis = redis_, call = std::move(call), id,
                               weak = std::weak_ptr<Link*>(self_)]() mutable {
      if (redis->time_->Now() < redis->away_until_) return;
      call.arguments[1] = fmt::format("{:.0f}", NowUs(*redis->time_));
      Reply reply = TheServer().Run(std::move(call));
      if (const auto self = weak.lock()) (*self)->Answer(id, std::move(reply));
    });
  }

  void Restart(const std::string& why) override { Drop(why); }

 private:
  static double NowUs(const SimTime& time) { return Seconds(time.Now().time_since_epoch()) * 1e6; }
  Duration Delay() { return redis_->random_->Micros(20, 400); }

  void Connect() {
    later_(redis_->random_->Millis(1, 50), [this] {
      if (redis_->time_->Now() < redis_->away_until_) return Connect();
      up_ = true;
      ++connection_;
      events_.up();
      Tick(connection_);
    });
  }

  void Tick(uint64_t connection) {
    later_(kTick, [this, connection] {
      if (!up_ || connection != connection_) return;
      events_.tick();
      Tick(connection);
    });
  }

  void Answer(uint64_t id, Reply reply) {
    back_ = std::max(back_, redis_->time_->Now() + Delay());
    later_(back_ - redis_->time_->Now(), [this, id, reply = std::move(reply)] {
      const auto it = waiting_.find(id);
      if (it == waiting_.end() || redis_->time_->Now() < redis_->away_until_) return;
      const Done done = std::move(it->second);
      waiting_.erase(it);
      done(reply);
    });
  }

  void Drop(const std::string& why) {
    if (!std::exchange(up_, false)) return;
    later_({}, [this, why] {
      for (auto& [id, done] : std::exchange(waiting_, {})) done(Unavailable("{}", why));
      events_.down(why);
      Connect();
    });
  }

  SimRedis* const redis_;
  const Later later_;
  Events events_;
  bool up_ = false;
  uint64_t connection_ = 0;
  uint64_t next_ = 1;
  std::map<uint64_t, Done> waiting_;
  MonoTime there_{}, back_{};  // when the last message of that way arrives
  const std::shared_ptr<Link*> self_ = std::make_shared<Link*>(this);
};

std::unique_ptr<ScriptRunner> SimRedis::Connect(Later later) {
  return std::make_unique<Link>(this, std::move(later));
}

}  // namespace choir::sim
