#include "common/http/failed_start.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/base/log.h"
#include "common/http/admin_server.h"
#include "common/metrics/metrics.h"

namespace choir {

sigset_t EndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

namespace {

// What the next try knows of this one: "PID WHY". Children of it, of other ids, are not meant.
constexpr const char* kFailedBefore = "CHOIR_START_FAILED";
constexpr size_t kWhyBytesMax = 1024;

std::string MarkOfThisProcess() { return std::to_string(getpid()) + " "; }

// SIGTERM or SIGINT, which are blocked, came within `time`.
bool EndIsWanted(Duration time) {
  const sigset_t signals = EndSignals();
  const MonoTime until = Clock::Real().Now() + time;
  for (Duration left = time; left > Duration(0); left = until - Clock::Real().Now()) {
    const timespec wait = {static_cast<time_t>(left.count() / 1'000'000'000),
                           static_cast<long>(left.count() % 1'000'000'000)};
    if (sigtimedwait(&signals, nullptr, &wait) > 0) return true;
  }
  return false;
}

}  // namespace

int StayOrRetry(const std::string& part, const std::string& admin, const Status& why,
                Duration retry_after, char** argv) {
  if (retry_after == Duration(0)) return 1;
  Metrics metrics(part);
  metrics.SetStartFailed(true);
  const sigset_t signals = EndSignals();
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &signals, &before);  // ahead of the server's threads: they inherit it
  auto server = AdminServer::Start(
      admin, {.metrics = [&metrics] { return metrics.Text(); },
              .live = [] { return absl::OkStatus(); },
              .ready = [why] { return Unavailable("cannot start: {}", MessageOf(why)); },
              .status = [] { return std::string(R"({"ready":false,"started":false})"); }});
  if (!server.ok()) {
    CHOIR_LOG(error, "the reason can be read here only, not in /readyz: {}",
              MessageOf(server.status()));
    if (absl::IsInvalidArgument(server.status())) return 1;  // no port is ever to be had there
  }
  CHOIR_LOG(warn, "tries again in {:.0f} s", Seconds(retry_after));
  if (EndIsWanted(retry_after)) return 0;
  if (server.ok()) server->reset();  // its port is wanted again
  std::fflush(nullptr);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  const std::string mark = MarkOfThisProcess() + MessageOf(why).substr(0, kWhyBytesMax);
  setenv(kFailedBefore, mark.c_str(), 1);
  execv("/proc/self/exe", argv);
  CHOIR_LOG(error, "the program cannot be started again");
  return 1;
}

std::string WhyFailedBefore() {
  const char* const mark = std::getenv(kFailedBefore);
  const std::string own = MarkOfThisProcess();
  if (mark == nullptr || std::strncmp(mark, own.c_str(), own.size()) != 0) return "";
  return mark + own.size();
}

}  // namespace choir
