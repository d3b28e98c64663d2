#include "worker/model/files/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace choir {
namespace {

constexpr uint64_t kPage = 4096;

// madvise wants whole pages; growing to page borders is harmless for a hint.
void Advise(std::byte* base, uint64_t offset, uint64_t bytes, int advice) {
  if (bytes == 0) return;
  const uint64_t begin = offset / kPage * kPage;
  (void)madvise(base + begin, offset + bytes - begin, advice);
}

}  // namespace

StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(RegularFile opened, RegularFile::Open(path));
  std::shared_ptr<MappedFile> file(new MappedFile(path, std::move(opened)));
  if (file->size_ > 0) {
    void* p = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, file->file_.fd(), 0);
    if (p == MAP_FAILED) {
      return ResourceExhausted("{}: file: cannot be mapped ({} bytes): {}", path, file->size_,
                               std::strerror(errno));
    }
    file->data_ = static_cast<std::byte*>(p);
  }
  return std::shared_ptr<const MappedFile>(std::move(file));
}

MappedFile::MappedFile(std::string path, RegularFile file)
    : path_(std::move(path)),
      file_(std::move(file)),
      size_(static_cast<size_t>(file_.stat().st_size)),
      mtime_ns_(int64_t{file_.stat().st_mtim.tv_sec} * 1000000000 + file_.stat().st_mtim.tv_nsec) {}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

Status MappedFile::Read(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        pread(file_.fd(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
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
