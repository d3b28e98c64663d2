#include "tools/up/child.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <fstream>
#include <sstream>
#include <utility>

namespace choir {
namespace {

constexpr size_t kStdoutBytesMax = 64 << 10;

// Between fork and exec: async-signal-safe calls only.
[[noreturn]] void BecomeChild(char* const* argv, int log_fd, int stdout_fd, pid_t parent) {
  setpgid(0, 0);  // Ctrl-C reaches the supervisor only, which then drains in order
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before the line above
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null_fd, 0);
  dup2(stdout_fd, 1);
  dup2(log_fd, 2);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(argv[0], argv);
  static constexpr char kFailed[] = "exec failed\n";
  (void)!write(2, kFailed, sizeof kFailed - 1);
  _exit(127);
}

}  // namespace

StatusOr<Child> Child::Spawn(const std::vector<std::string>& argv, const std::string& log_file) {
  const int log_fd = open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log_fd < 0) return Internal("{}: cannot be opened: {}", log_file, strerror(errno));
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) {
    close(log_fd);
    return Internal("pipe: {}", strerror(errno));
  }
  std::vector<char*> raw;
  for (const std::string& a : argv) raw.push_back(const_cast<char*>(a.c_str()));
  raw.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) BecomeChild(raw.data(), log_fd, pipe_fds[1], parent);
  const int error = errno;
  close(log_fd);
  close(pipe_fds[1]);
  if (pid < 0) {
    close(pipe_fds[0]);
    return Internal("fork: {}", strerror(error));
  }
  return Child(pid, pipe_fds[0]);
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      stdout_fd_(std::exchange(other.stdout_fd_, -1)),
      text_(std::move(other.text_)) {}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    if (stdout_fd_ >= 0) close(stdout_fd_);
    pid_ = std::exchange(other.pid_, -1);
    stdout_fd_ = std::exchange(other.stdout_fd_, -1);
    text_ = std::move(other.text_);
  }
  return *this;
}

Child::~Child() {
  if (stdout_fd_ >= 0) close(stdout_fd_);
}

std::optional<std::map<std::string, std::string>> Child::ReadListening() {
  char buffer[4096];
  ssize_t n;
  while (stdout_fd_ >= 0 && (n = read(stdout_fd_, buffer, sizeof buffer)) > 0) {
    if (text_.size() < kStdoutBytesMax) text_.append(buffer, static_cast<size_t>(n));
  }
  const size_t end = text_.find('\n');
  if (end == std::string::npos) return std::nullopt;
  std::istringstream words(text_.substr(0, end));
  text_.erase(0, end + 1);
  std::string word;
  std::map<std::string, std::string> found;
  while (words >> word) {
    if (const size_t equals = word.find('='); equals != std::string::npos) {
      found[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }
  return found;
}

std::optional<int> Child::Reap() {
  int status = 0;
  if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  pid_ = -1;
  return status;
}

int Child::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

void Child::Signal(int signal) const {
  if (pid_ > 0) kill(pid_, signal);
}

std::string DescribeWaitStatus(int status) {
  if (WIFEXITED(status)) return fmt::format("exited with {}", WEXITSTATUS(status));
  return fmt::format("was killed by signal {}", WTERMSIG(status));
}

std::string TailOf(const std::string& file, size_t lines) {
  std::ifstream in(file);
  std::deque<std::string> last;
  for (std::string line; std::getline(in, line);) {
    last.push_back(line);
    if (last.size() > lines) last.pop_front();
  }
  std::string out;
  for (const std::string& line : last) out += "  " + line + "\n";
  return out;
}

}  // namespace choir
