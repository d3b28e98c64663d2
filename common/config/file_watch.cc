#include "common/config/file_watch.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/log.h"

namespace choir {

StatusOr<std::string> ReadSmallFile(const std::string& path, uint64_t bytes_max) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return NotFound("{}: {}", path, std::strerror(errno));
  std::string text;
  char buffer[16384];
  ssize_t n = 0;
  while ((n = read(fd, buffer, sizeof buffer)) > 0 && text.size() <= bytes_max) {
    text.append(buffer, static_cast<size_t>(n));
  }
  const int error = errno;
  close(fd);
  if (n < 0) return Unavailable("{}: {}", path, std::strerror(error));
  if (text.size() > bytes_max) return InvalidArgument("{}: longer than {} bytes", path, bytes_max);
  return text;
}

FileStamp StampOf(const std::string& path) {
  struct stat st = {};
  if (stat(path.c_str(), &st) != 0) return {};
  return {st.st_ino, st.st_size, st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec,
          st.st_ctim.tv_sec * 1'000'000'000 + st.st_ctim.tv_nsec};
}

FileWatch::FileWatch(std::string path, std::function<Status(const std::string&)> read)
    : path_(std::move(path)), read_(std::move(read)) {}

FileWatch::~FileWatch() {
  {
    std::lock_guard lock(mu_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Status FileWatch::Poll() {
  const FileStamp now = StampOf(path_);
  if (now.size >= 0 && now == last_) return result_;
  auto text = ReadSmallFile(path_);
  result_ = text.ok() ? read_(*text) : text.status();
  last_ = now;
  if (on_result_) on_result_(result_);
  return result_;
}

void FileWatch::Start(Duration interval) {
  thread_ = std::thread([this, interval] { Loop(interval); });
}

void FileWatch::Loop(Duration interval) {
  pthread_setname_np(pthread_self(), "choir-watch");
  std::unique_lock lock(mu_);
  while (!wake_.wait_for(lock, interval, [this] { return stop_; })) {
    lock.unlock();
    const Status before = result_;
    const Status now = Poll();
    if (!now.ok() && now != before) {
      CHOIR_LOG(error, "{}; what was read before stays in force", MessageOf(now));
    }
    lock.lock();
  }
}

}  // namespace choir
