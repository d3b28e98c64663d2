// One child process of `choir up`: spawned in its own process group, killed with its parent, stderr
// in a log file, stdout on a pipe for its "listening ..." line. Owned and used by the supervisor's
// one thread.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

class Child {
 public:
  // argv[0] is the program's path. Appends to `log_file`.
  static StatusOr<Child> Spawn(const std::vector<std::string>& argv, const std::string& log_file);
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child();  // does not kill; closes the pipe

  pid_t pid() const { return pid_; }
  int stdout_fd() const { return stdout_fd_; }
  // Reads what is there (does not wait); returns the key=value words of a complete "listening" line
  // once.
  std::optional<std::map<std::string, std::string>> ReadListening();
  // The wait status once the process has ended.
  std::optional<int> Reap();
  int Wait();  // until it ends; its wait status
  void Signal(int signal) const;

 private:
  Child(pid_t pid, int fd) : pid_(pid), stdout_fd_(fd) {}
  pid_t pid_ = -1;
  int stdout_fd_ = -1;
  std::string text_;
};

std::string DescribeWaitStatus(int status);  // "exited with 1", "killed by signal 9"
// The last lines of a log file, for a person.
std::string TailOf(const std::string& file, size_t lines);

}  // namespace choir
