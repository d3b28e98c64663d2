// Files that somebody else made, read without trust: only regular files (a pipe, a device or a
// directory is refused at once, and never waited for), only below a size. Errors name the file and
// the remedy. Any thread.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <string>

#include "common/base/status.h"

namespace choir {

// An open regular file; owns its descriptor.
class RegularFile {
 public:
  // NotFound when it is missing; InvalidArgument for what is not a regular file (a directory, pipe,
  // device, circular link); links to regular files are followed, as model caches use them.
  static StatusOr<RegularFile> Open(const std::string& path);
  ~RegularFile();
  RegularFile(RegularFile&& other) noexcept;
  RegularFile& operator=(RegularFile&& other) noexcept;

  int fd() const { return fd_; }
  const struct stat& stat() const { return stat_; }

 private:
  RegularFile() = default;

  int fd_ = -1;
  struct stat stat_ {};
};

// The whole file; InvalidArgument when it is longer than max_bytes.
StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

// Whether the directory has such an entry, be it a link that leads nowhere. What is there and
// cannot be read is an error, not an absent file.
bool IsThere(const std::string& path);

}  // namespace choir
