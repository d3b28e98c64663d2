#include "common/files/write_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace choir {

bool WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

Status SyncDirectory(const std::string& dir) {
  const int fd = open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool good = fd >= 0 && fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  return good ? absl::OkStatus() : Unavailable("{}: fsync: {}", dir, std::strerror(error));
}

namespace {

bool SetOwnerAndMode(int fd, const std::string& path, const WriteFileOptions& options) {
  struct stat replaced = {};
  if (!options.like_replaced || stat(path.c_str(), &replaced) != 0) {
    return fchmod(fd, options.mode) == 0;
  }
  // Who may not give it away keeps it to himself, but for the group.
  if (fchown(fd, replaced.st_uid, replaced.st_gid) != 0 &&
      fchown(fd, static_cast<uid_t>(-1), replaced.st_gid) != 0) {
    return fchmod(fd, options.mode) == 0;
  }
  return fchmod(fd, replaced.st_mode & 0660) == 0;
}

}  // namespace

Status WriteFileWhole(const std::string& path, std::string_view text, WriteFileOptions options) {
  std::string part = path + ".XXXXXX";
  const int fd = mkostemp(part.data(), O_CLOEXEC);  // made 0600
  if (fd < 0) return Unavailable("{}: cannot be written: {}", path, std::strerror(errno));
  bool good = SetOwnerAndMode(fd, path, options) && WriteAll(fd, text) &&
              (!options.durable || fsync(fd) == 0);
  good = good && rename(part.c_str(), path.c_str()) == 0;
  const int error = errno;
  close(fd);
  if (!good) {
    unlink(part.c_str());
    return Unavailable("{}: cannot be written: {}", path, std::strerror(error));
  }
  if (!options.durable) return absl::OkStatus();
  const std::string dir = std::filesystem::path(path).parent_path().string();
  return SyncDirectory(dir.empty() ? "." : dir);
}

}  // namespace choir
