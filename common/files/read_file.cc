#include "common/files/read_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace choir {
namespace {

Status OpenError(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return NotFound("{}: file: is missing; complete the model directory", path);
    case ELOOP:
      return InvalidArgument("{}: file: is a circular link; put the real file there", path);
    case EACCES:
    case EPERM:
      return PermissionDenied("{}: file: may not be read by this user; change its permissions",
                              path);
    default:
      return InvalidArgument("{}: file: cannot be opened: {}; put the real file there", path,
                             std::strerror(error));
  }
}

}  // namespace

StatusOr<RegularFile> RegularFile::Open(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    return InvalidArgument("file name: contains a NUL character; give the name of a file");
  }
  RegularFile file;
  // O_NONBLOCK: opening a pipe nobody writes to must not hang.
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file.fd_ < 0) return OpenError(path, errno);
  if (fstat(file.fd_, &file.stat_) != 0) return OpenError(path, errno);
  if (!S_ISREG(file.stat_.st_mode)) {
    return InvalidArgument("{}: file: is not a regular file; put the real file there", path);
  }
  return file;
}

RegularFile::~RegularFile() {
  if (fd_ >= 0) close(fd_);
}

RegularFile::RegularFile(RegularFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), stat_(other.stat_) {}

RegularFile& RegularFile::operator=(RegularFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(stat_, other.stat_);
  return *this;
}

StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  CHOIR_ASSIGN_OR_RETURN(const RegularFile file, RegularFile::Open(path));
  const auto size = static_cast<size_t>(file.stat().st_size);
  if (size > max_bytes) {
    return InvalidArgument(
        "{}: size: {} bytes are more than the {} a file of this kind may have; fetch it again",
        path, size, max_bytes);
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(file.fd(), text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Unavailable("{}: file: cannot be read: {}; check the disk", path,
                         std::strerror(errno));
    }
    if (n == 0) break;  // became shorter meanwhile
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return text;
}

bool IsThere(const std::string& path) {
  struct stat st {};
  return lstat(path.c_str(), &st) == 0;
}

}  // namespace choir
