// Ranks as real processes: forks one child a rank, tells each the ids of all, and collects how they
// end. Call it from a test with a single thread. A child runs `fn` and exits with what it returns.
#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "common/base/check.h"

namespace choir {

class ForkedRanks {
 public:
  using Fn = std::function<int(int rank, const std::vector<int64_t>& pids)>;

  ForkedRanks(int num_ranks, const Fn& fn) {
    std::vector<int> starts;
    for (int r = 0; r < num_ranks; ++r) {
      int ends[2];
      CHOIR_CHECK(pipe(ends) == 0);
      const pid_t pid = fork();
      CHOIR_CHECK(pid >= 0);
      if (pid == 0) {
        std::vector<int64_t> pids(static_cast<size_t>(num_ranks));
        const auto bytes = static_cast<ssize_t>(pids.size() * sizeof(int64_t));
        CHOIR_CHECK(read(ends[0], pids.data(), static_cast<size_t>(bytes)) == bytes);
        _exit(fn(r, pids));
      }
      close(ends[0]);
      pids_.push_back(pid);
      starts.push_back(ends[1]);
    }
    for (const int fd : starts) {
      const auto bytes = static_cast<ssize_t>(pids_.size() * sizeof(int64_t));
      CHOIR_CHECK(write(fd, pids_.data(), static_cast<size_t>(bytes)) == bytes);
      close(fd);
    }
  }

  int64_t pid(int rank) const { return pids_[static_cast<size_t>(rank)]; }
  void Kill(int rank, int signal) const { kill(static_cast<pid_t>(pid(rank)), signal); }

  // The exit code; -signal when the rank was killed.
  int Wait(int rank) const {
    int state = 0;
    CHOIR_CHECK(waitpid(static_cast<pid_t>(pid(rank)), &state, 0) == pid(rank));
    return WIFEXITED(state) ? WEXITSTATUS(state) : -WTERMSIG(state);
  }

 private:
  std::vector<int64_t> pids_;
};

}  // namespace choir
