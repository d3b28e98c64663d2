// A regular file mapped read-only. Immutable and thread-safe; pages are read when touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/base/status.h"
#include "common/files/read_file.h"

namespace choir {

class MappedFile {
 public:
  // Errors as RegularFile's.
  static StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return file_.fd(); }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  int64_t mtime_ns() const { return mtime_ns_; }

  // Copies [offset, offset + out.size()) without touching the mapping, so that memory which is read
  // once does not count as this process's. Unavailable on an input error.
  Status Read(uint64_t offset, std::span<std::byte> out) const;
  // Brings [offset, offset + bytes) into memory; a hint, errors are left to the first use.
  void Prefault(uint64_t offset, uint64_t bytes) const;
  // Gives the pages back (they stay in the page cache); contents do not change.
  void Forget(uint64_t offset, uint64_t bytes) const;

 private:
  MappedFile(std::string path, RegularFile file);

  std::string path_;
  RegularFile file_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  int64_t mtime_ns_ = 0;
};

}  // namespace choir
