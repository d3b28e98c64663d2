// choir-worker: one rank of a group as a process. SIGTERM and SIGINT drain and end it with 0; a
// second one ends it at once. A device that fails ends it with 1.
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "common/base/log.h"
#include "common/http/failed_start.h"
#include "common/rpc/callback_thread.h"
#include "worker/worker_process.h"

namespace choir {
namespace {

constexpr int kTickMs = 20;  // while a drain goes on

int BlockSignals() {
  signal(SIGPIPE, SIG_IGN);
  const sigset_t set = EndSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);  // before any thread: all inherit it
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

// Signals seen since the last call; waits for one at most `timeout_ms`. `wake` ends the wait, too.
int TakeSignals(int signal_fd, int wake_fd, int timeout_ms) {
  pollfd fds[2] = {{signal_fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};
  (void)poll(fds, 2, timeout_ms);
  int count = 0;
  eventfd_t woken = 0;
  (void)eventfd_read(wake_fd, &woken);
  signalfd_siginfo info;
  while (read(signal_fd, &info, sizeof info) == sizeof info) ++count;
  return count;
}

// Ends a process whose loading thread cannot be interrupted: reading weights has no side effects.
[[noreturn]] void LeaveAtOnce(int code) {
  std::fflush(nullptr);
  std::_Exit(code);
}

int Main(int argc, char** argv) {
  UseOneCallbackThread();
  WorkerConfig config;
  if (const auto code = ReadWorkerConfig(argc, argv, &config)) return *code;
  (void)InitLog(fmt::format("worker-{}", config.group * config.ranks + config.rank),
                config.log.level, config.log.format);
  setenv("GRPC_VERBOSITY", "NONE", 0);  // what matters comes back as a status and is logged by us
  const int signal_fd = BlockSignals();
  const int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  const Duration drain_timeout = config.drain_timeout, retry_start = config.retry_start;
  const std::string admin = config.admin;
  WorkerProcess worker(std::move(config), [wake_fd] { (void)eventfd_write(wake_fd, 1); });
  const auto not_started = [&](const Status& why) {
    CHOIR_LOG(error, "{}", MessageOf(why));
    worker.Stop();
    return StayOrRetry("worker", admin, why, retry_start, argv);
  };
  if (const Status listening = worker.Listen(); !listening.ok()) return not_started(listening);
  Status loaded;
  std::atomic<bool> is_loaded{false};
  std::jthread loader([&] {
    pthread_setname_np(pthread_self(), "load");
    loaded = worker.Load();
    is_loaded.store(true);
    (void)eventfd_write(wake_fd, 1);
  });
  while (!is_loaded.load()) {
    if (TakeSignals(signal_fd, wake_fd, -1) == 0) continue;
    if (!is_loaded.load()) LeaveAtOnce(0);
    (void)kill(getpid(), SIGTERM);  // it came as loading ended: what follows has to see it
  }
  loader.join();
  if (!loaded.ok()) return not_started(loaded);
  int signals = 0;
  MonoTime drain_until = MonoTime::max();
  while (!worker.failed()) {  // asked first: it may have failed while it was loaded
    const int seen = TakeSignals(signal_fd, wake_fd, worker.NeedsTicks() ? kTickMs : -1);
    if (signals + seen > 1) LeaveAtOnce(1);
    if (seen > 0) {
      signals = 1;
      drain_until = Clock::Real().Now() + drain_timeout;
      worker.BeginDrain();
    }
    if (worker.DrainIsOver() && signals > 0) break;
    if (Clock::Real().Now() > drain_until) {
      CHOIR_LOG(warn, "the drain's time is over: what still runs is cut");
      break;
    }
  }
  worker.Stop();
  CHOIR_LOG(info, "ends");
  return worker.failed() ? 1 : 0;
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) { return choir::Main(argc, argv); }
