#include "tools/gpu/rank_processes.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/check.h"

namespace choir::gpu {
namespace {

struct Started {
  pid_t pid = -1;
  int start = -1;  // the child reads all pids from the other end
  int told = -1;
};

Started Start(int rank, size_t num_ranks, const RankFn& fn) {
  int start[2], told[2];
  CHOIR_CHECK(pipe(start) == 0 && pipe(told) == 0);
  const pid_t pid = fork();
  CHOIR_CHECK(pid >= 0);
  if (pid != 0) {
    close(start[0]);
    close(told[1]);
    return {pid, start[1], told[0]};
  }
  close(start[1]);
  close(told[0]);
  std::vector<int64_t> pids(num_ranks);
  const auto bytes = static_cast<ssize_t>(num_ranks * sizeof(int64_t));
  if (read(start[0], pids.data(), static_cast<size_t>(bytes)) != bytes) _exit(1);
  _exit(fn(rank, pids, told[1]));
}

// What the rank writes until it closes its end, or until the deadline. False: the deadline.
bool ReadUntil(MonoTime deadline, int fd, std::string* told) {
  for (char part[4096];;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::Real().Now());
    pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
    const int ready = poll(&wait, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const ssize_t bytes = read(fd, part, sizeof part);
    if (bytes <= 0) return true;
    told->append(part, static_cast<size_t>(bytes));
  }
}

}  // namespace

std::vector<RankEnd> RunRankProcesses(int num_ranks, Duration limit, const RankFn& fn) {
  const MonoTime deadline = Clock::Real().Now() + limit;
  std::vector<Started> ranks;
  for (int r = 0; r < num_ranks; ++r) {
    ranks.push_back(Start(r, static_cast<size_t>(num_ranks), fn));
  }
  std::vector<int64_t> pids;
  for (const Started& rank : ranks) pids.push_back(rank.pid);
  for (const Started& rank : ranks) {
    const auto bytes = static_cast<ssize_t>(pids.size() * sizeof(int64_t));
    CHOIR_CHECK(write(rank.start, pids.data(), static_cast<size_t>(bytes)) == bytes);
    close(rank.start);
  }
  std::vector<RankEnd> ends(ranks.size());
  for (size_t r = 0; r < ranks.size(); ++r) {
    // It ends when its end of the pipe closes, which only its own end and its death do.
    ends[r].hung = !ReadUntil(deadline, ranks[r].told, &ends[r].told);
    if (ends[r].hung) kill(ranks[r].pid, SIGKILL);
    close(ranks[r].told);
    int state = 0;
    CHOIR_CHECK(waitpid(ranks[r].pid, &state, 0) == ranks[r].pid);
    ends[r].code = WIFEXITED(state) ? WEXITSTATUS(state) : -WTERMSIG(state);
  }
  return ends;
}

}  // namespace choir::gpu
