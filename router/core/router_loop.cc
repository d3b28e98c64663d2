#include "router/core/router_loop.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "common/base/check.h"
#include "router/core/router_core.h"

namespace choir {
namespace {

constexpr size_t kEventsPerSession = 4;
constexpr size_t kEventsOfFixedParts = 4'096;
constexpr auto kLongestSleep = std::chrono::milliseconds(500);

}  // namespace

RouterLoop::RouterLoop(LoopLimits limits)
    : limits_(limits),
      tasks_(limits.sessions_max * kEventsPerSession + limits.text_jobs_max + kEventsOfFixedParts),
      texts_(limits.text_jobs_max) {}

RouterLoop::~RouterLoop() { Stop(); }

void RouterLoop::Start(RouterCore* core, std::function<void()> each_round) {
  CHOIR_CHECK(!running_);
  running_ = true;
  core_ = core;
  each_round_ = std::move(each_round);
  owner_ = std::thread([this] { Run(); });
  for (size_t i = 0; i < limits_.text_threads; ++i) {
    pool_.emplace_back([this] { RunTexts(); });
  }
}

void RouterLoop::Stop() {
  if (!running_) return;
  running_ = false;
  texts_.Close();
  for (std::thread& thread : pool_) thread.join();
  pool_.clear();
  tasks_.Close();
  owner_.join();
}

void RouterLoop::Post(Task task) {
  if (tasks_.TryPush(std::move(task))) return;
  // Closed: the process is ending and nobody waits for it. Otherwise the bound above is wrong.
  CHOIR_CHECK(tasks_.closed());
}

void RouterLoop::Wake() { tasks_.Wake(); }

bool RouterLoop::RunText(Task work, Task then) {
  return texts_.TryPush({std::move(work), std::move(then)});
}

bool RouterLoop::Call(Task task, Duration timeout) {
  struct Done {
    std::mutex mu;
    std::condition_variable changed;
    bool done = false;
    bool abandoned = false;
  };
  auto done = std::make_shared<Done>();
  Post([task = std::move(task), done] {
    std::lock_guard lock(done->mu);
    if (done->abandoned) return;  // what the task writes to may be gone
    task();
    done->done = true;
    done->changed.notify_all();
  });
  std::unique_lock lock(done->mu);
  const bool in_time = done->changed.wait_for(lock, timeout, [&] { return done->done; });
  done->abandoned = true;
  return in_time;
}

std::shared_ptr<void> RouterLoop::OpenSession() {
  if (sessions_->fetch_add(1) >= limits_.sessions_max) {
    sessions_->fetch_sub(1);
    return nullptr;
  }
  struct Place {
    std::shared_ptr<std::atomic<size_t>> sessions;
    ~Place() { sessions->fetch_sub(1); }
  };
  return std::shared_ptr<Place>(new Place{sessions_});
}

Duration RouterLoop::BusyFor(const Clock& clock) const {
  const int64_t began = round_began_ns_.load();
  return began == 0 ? Duration(0) : clock.Now().time_since_epoch() - Duration(began);
}

void RouterLoop::Run() {
  pthread_setname_np(pthread_self(), "choir-owner");
  const Clock& clock = Clock::Real();
  while (true) {
    const Duration until_timer = std::clamp<Duration>(
        core_->NextTimer() == MonoTime::max() ? kLongestSleep : core_->NextTimer() - clock.Now(),
        Duration(0), kLongestSleep);
    std::vector<Task> tasks = tasks_.WaitDrain(until_timer);
    const MonoTime now = clock.Now();
    round_began_ns_ = now.time_since_epoch().count();
    for (Task& task : tasks) {
      task();
      task = nullptr;  // what it holds may be the last reference to a stream
    }
    core_->OnTimer();
    each_round_();
    round_began_ns_ = 0;
    if (tasks.empty() && tasks_.closed()) return;
  }
}

void RouterLoop::RunTexts() {
  pthread_setname_np(pthread_self(), "choir-text");
  while (true) {
    std::optional<TextJob> job = texts_.WaitPop(kLongestSleep);
    if (job) {
      job->work();
      Post(std::move(job->then));
    } else if (texts_.closed()) {
      return;
    }
  }
}

}  // namespace choir
