#include "tests/router/limits/redis_router.h"

#include <chrono>
#include <utility>

#include "common/base/check.h"
#include "router/limits/redis/redis_backend.h"
#include "router/limits/redis/redis_connection.h"

namespace choir {
namespace {

// Wakes whoever waits for tasks of any router.
struct News {
  std::mutex mu;
  std::condition_variable changed;
  uint64_t count = 0;
};
News& GetNews() {
  static News news;
  return news;
}

}  // namespace

RedisRouter::RedisRouter(const RedisRouterOptions& options, const Clock* clock) {
  const auto address = ParseRedisUrl(options.url);
  CHOIR_CHECK(address.ok());
  RedisConnectionOptions connection{.address = *address,
                                    .tls = options.tls,
                                    .script = kLimitScript,
                                    .timeout = options.timeout,
                                    .tick = options.tick};
  auto runner = ConnectToRedis(connection, [inbox = inbox_](std::function<void()> task) {
    {
      std::lock_guard lock(inbox->mu);
      inbox->tasks.push_back(std::move(task));
    }
    std::lock_guard lock(GetNews().mu);
    ++GetNews().count;
    GetNews().changed.notify_all();
  });
  backend_ = MakeRedisLimitBackend({.name = "redis " + address->Name(),
                                    .router = options.name,
                                    .lease = options.lease,
                                    .now_us = options.now_us},
                                   std::move(runner), clock);
}

RedisRouter::~RedisRouter() {
  backend_.reset();
  std::lock_guard lock(inbox_->mu);
  inbox_->tasks.clear();
}

void RedisRouter::RunTasks() {
  std::deque<std::function<void()>> tasks;
  {
    std::lock_guard lock(inbox_->mu);
    tasks.swap(inbox_->tasks);
  }
  for (const auto& task : tasks) task();
}

bool RunUntil(const std::vector<RedisRouter*>& routers, const std::function<bool()>& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  News& news = GetNews();
  uint64_t seen = 0;
  while (true) {
    for (RedisRouter* const router : routers) router->RunTasks();
    if (done()) return true;
    std::unique_lock lock(news.mu);
    if (!news.changed.wait_until(lock, end, [&] { return news.count != seen; })) return false;
    seen = news.count;
  }
}

}  // namespace choir
