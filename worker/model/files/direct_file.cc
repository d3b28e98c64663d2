#include "worker/model/files/direct_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

namespace choir {
namespace {

constexpr size_t kCachedBytes = size_t{1} << 20;  // of one look into the page cache

// The file that is open, whatever its name leads to by now.
int OpenAgain(int fd, int flags) {
  return open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDONLY | O_CLOEXEC | flags);
}

}  // namespace

DirectFile::DirectFile(const MappedFile* file)
    : file_(file),
      cached_(OpenAgain(file->fd(), 0)),
      direct_(cached_ < 0 ? -1 : OpenAgain(file->fd(), O_DIRECT)) {
  if (cached_ >= 0) (void)posix_fadvise(cached_, 0, 0, POSIX_FADV_RANDOM);
}

DirectFile::~DirectFile() {
  if (cached_ >= 0) close(cached_);
  if (direct_ >= 0) close(direct_);
}

// How many bytes were there. The first look is for one page only: what is missed begins to be read.
size_t DirectFile::ReadCached(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  size_t next = kAlign - offset % kAlign;
  while (done < out.size()) {
    const iovec part{out.data() + done, std::min(next, out.size() - done)};
    const ssize_t n = preadv2(cached_, &part, 1, static_cast<off_t>(offset + done), RWF_NOWAIT);
    if (n <= 0) break;
    done += static_cast<size_t>(n);
    if (static_cast<size_t>(n) < part.iov_len) break;
    next = kCachedBytes;
  }
  return done;
}

// REQUIRES: offset and address at multiples of kAlign. How many bytes came, whole pages; the
// ordinary way says what is wrong with others.
size_t DirectFile::ReadDirect(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  const size_t whole = out.size() / kAlign * kAlign;
  while (done < whole) {
    const ssize_t n =
        pread(direct_, out.data() + done, whole - done, static_cast<off_t>(offset + done));
    if (n <= 0 || static_cast<uint64_t>(n) % kAlign != 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

Status DirectFile::Read(uint64_t offset, std::span<std::byte> out) const {
  if (direct_ < 0 || out.size() < kDirectMin) return file_->Read(offset, out);
  const size_t cached = ReadCached(offset, out);
  offset += cached;
  out = out.subspan(cached);
  const auto address = reinterpret_cast<uintptr_t>(out.data());
  if (out.size() < kDirectMin || address % kAlign != offset % kAlign) {
    return file_->Read(offset, out);
  }
  const size_t head = (kAlign - offset % kAlign) % kAlign;
  CHOIR_RETURN_IF_ERROR(file_->Read(offset, out.first(head)));
  offset += head;
  out = out.subspan(head);
  const size_t direct = ReadDirect(offset, out);
  return file_->Read(offset + direct, out.subspan(direct));
}

}  // namespace choir
