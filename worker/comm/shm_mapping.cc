#include "worker/comm/shm_mapping.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "common/base/check.h"

namespace choir {
namespace shm {
namespace {

// Maps an open segment file; `fd` stays the caller's.
StatusOr<std::unique_ptr<Mapping>> Map(int fd, size_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    return ResourceExhausted("cannot map {} bytes of shared memory: {}", bytes,
                             std::strerror(errno));
  }
  return std::make_unique<Mapping>(static_cast<std::byte*>(base), bytes);
}

bool IsSegmentName(std::string_view name) {
  const auto number = [&name] {
    const size_t digits = std::min(name.find_first_not_of("0123456789"), name.size());
    const bool good = digits >= 1 && digits <= 10;
    name.remove_prefix(digits);
    return good;
  };
  const auto word = [&name](std::string_view w) {
    if (!name.starts_with(w)) return false;
    name.remove_prefix(w.size());
    return true;
  };
  return word("/proc/") && number() && word("/fd/") && number() && name.empty();
}

}  // namespace

StatusOr<std::unique_ptr<Mapping>> OpenSegment(const ShmJoin& join) {
  if (!IsSegmentName(join.name)) {
    return InvalidArgument("'{}' is no shared segment's name", join.name);
  }
  const int fd = open(join.name.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return Unavailable(
        "cannot open the group's shared segment {}: {}; the ranks of a group need one host, "
        "one PID namespace and one user",
        join.name, std::strerror(errno));
  }
  struct stat info {};
  const int seals = fcntl(fd, F_GET_SEALS);
  const bool sealed = seals >= 0 && (seals & F_SEAL_SHRINK) != 0;  // else a cut file is a SIGBUS
  if (fstat(fd, &info) != 0 || !sealed || static_cast<size_t>(info.st_size) < sizeof(Header)) {
    close(fd);
    return InvalidArgument("{} is no shared segment", join.name);
  }
  auto mapping = Map(fd, static_cast<size_t>(info.st_size));
  close(fd);
  if (!mapping.ok()) return mapping.status();
  const Header& h = (*mapping)->header();
  const bool good = h.magic == kMagic && h.num_ranks == join.pids.size() && h.ring_bytes >= 4096 &&
                    h.ring_bytes <= (uint64_t{1} << 30) &&
                    h.segment_bytes == static_cast<uint64_t>(info.st_size) &&
                    h.segment_bytes == SegmentBytes(h.num_ranks, h.ring_bytes);
  if (!good || h.generation != join.generation) {
    return InvalidArgument("{} is no segment of {} ranks, generation {}", join.name,
                           join.pids.size(), join.generation);
  }
  return mapping;
}

}  // namespace shm

StatusOr<std::unique_ptr<ShmSegment>> ShmSegment::Create(int num_ranks, uint64_t generation,
                                                         const CollectivesOptions& options) {
  CHOIR_CHECK(num_ranks >= 1 && num_ranks <= shm::kRanksMax);
  CHOIR_CHECK(options.ring_bytes >= 4096 && options.ring_bytes <= (size_t{1} << 30));
  const size_t bytes = shm::SegmentBytes(static_cast<size_t>(num_ranks), options.ring_bytes);
  const int fd = memfd_create("choir-group", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return ResourceExhausted("cannot make shared memory: {}", std::strerror(errno));
  auto segment =
      std::unique_ptr<ShmSegment>(new ShmSegment(fd, fmt::format("/proc/{}/fd/{}", getpid(), fd)));
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ResourceExhausted("cannot make {} bytes of shared memory: {}", bytes,
                             std::strerror(errno));
  }
  CHOIR_ASSIGN_OR_RETURN(const auto mapping, shm::Map(fd, bytes));
  shm::Header& header = mapping->header();  // all zero: every atomic's start
  header.generation = generation;
  header.ring_bytes = options.ring_bytes;
  header.segment_bytes = bytes;
  header.num_ranks = static_cast<uint32_t>(num_ranks);
  header.magic = shm::kMagic;
  return segment;
}

ShmSegment::~ShmSegment() { close(fd_); }

}  // namespace choir
