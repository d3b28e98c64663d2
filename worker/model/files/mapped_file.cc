#include "worker/model/files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace choir {
namespace {

constexpr uint64_t kPage = 4096;

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
      return InvalidArgument("{}: file: cannot be opened: {}", path, std::strerror(error));
  }
}

// madvise wants whole pages; growing to page borders is harmless for a hint.
void Advise(std::byte* base, uint64_t offset, uint64_t bytes, int advice) {
  if (bytes == 0) return;
  const uint64_t begin = offset / kPage * kPage;
  (void)madvise(base + begin, offset + bytes - begin, advice);
}

}  // namespace

StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    return InvalidArgument("file name: contains a NUL character");
  }
  // O_NONBLOCK: opening a pipe nobody writes to must not hang.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return OpenError(path, errno);
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->fd_ = fd;
  struct stat st {};
  if (fstat(fd, &st) != 0) return OpenError(path, errno);
  if (!S_ISREG(st.st_mode)) {
    return InvalidArgument("{}: file: is not a regular file; put the real file there", path);
  }
  file->size_ = static_cast<size_t>(st.st_size);
  file->mtime_ns_ = int64_t{st.st_mtim.tv_sec} * 1000000000 + st.st_mtim.tv_nsec;
  if (file->size_ > 0) {
    void* p = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
      return ResourceExhausted("{}: file: cannot be mapped ({} bytes): {}", path, file->size_,
                               std::strerror(errno));
    }
    file->data_ = static_cast<std::byte*>(p);
  }
  return std::shared_ptr<const MappedFile>(std::move(file));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
  if (fd_ >= 0) close(fd_);
}

Status MappedFile::Read(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        pread(fd_, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Unavailable("{}: file: cannot be read: {}", path_, std::strerror(errno));
    if (n == 0) return Unavailable("{}: file: became shorter while it was read", path_);
    done += static_cast<size_t>(n);
  }
  return {};
}

void MappedFile::Prefault(uint64_t offset, uint64_t bytes) const {
  // Before Linux 5.14 this advice is unknown; pages then come one by one when first used.
  Advise(data_, offset, bytes, MADV_POPULATE_READ);
}

void MappedFile::Forget(uint64_t offset, uint64_t bytes) const {
  Advise(data_, offset, bytes, MADV_DONTNEED);
}

}  // namespace choir
