// Reads large parts of a file once, at the disk's speed: what the page cache has comes from there,
// the rest straight from the disk (O_DIRECT), which takes neither a second copy nor memory that
// other programs may need. A file system that cannot do that is read the ordinary way. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/base/status.h"
#include "worker/model/files/mapped_file.h"

namespace choir {

class DirectFile {
 public:
  // Bytes come straight from the disk where memory and file agree modulo this many.
  static constexpr uint64_t kAlign = 4096;
  // Less than that is read the ordinary way.
  static constexpr uint64_t kDirectMin = 256 << 10;

  // `file` outlives it.
  explicit DirectFile(const MappedFile* file);
  ~DirectFile();
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  // Copies [offset, offset + out.size()). Errors as MappedFile::Read's.
  Status Read(uint64_t offset, std::span<std::byte> out) const;

 private:
  size_t ReadCached(uint64_t offset, std::span<std::byte> out) const;
  size_t ReadDirect(uint64_t offset, std::span<std::byte> out) const;

  const MappedFile* const file_;
  int cached_ = -1;  // reads without read-ahead
  int direct_ = -1;  // -1: the file system has no direct reads
};

}  // namespace choir
