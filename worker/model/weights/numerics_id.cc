#include "worker/model/weights/numerics_id.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/log.h"
#include "common/base/sha256.h"
#include "common/runtime/thread_team.h"

namespace choir {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr size_t kSampleBytes = 4096;
constexpr uint64_t kSamples = 4;  // of a tensor beyond kWholeTensorBytes
constexpr uint64_t kWholeTensorBytes = 64 << 10;
constexpr unsigned kThreadsMax = 8;

Status HashRange(const StoredTensor& t, uint64_t begin, uint64_t end,
                 std::vector<std::byte>& buffer, Sha256* hash) {
  for (uint64_t at = begin; at < end; at += kChunkBytes) {
    const std::span<std::byte> part(buffer.data(), std::min<uint64_t>(kChunkBytes, end - at));
    CHOIR_RETURN_IF_ERROR(t.file->Read(t.info.offset + at, part));
    hash->Update(part);
  }
  return {};
}

// Samples are evenly spaced over the tensor, first and last bytes included.
Status HashContent(const StoredTensor& t, bool whole, std::vector<std::byte>& buffer,
                   Sha256* hash) {
  const uint64_t size = t.info.bytes;
  if (whole || size <= kWholeTensorBytes) return HashRange(t, 0, size, buffer, hash);
  for (uint64_t i = 0; i < kSamples; ++i) {
    const uint64_t at = (size - kSampleBytes) * i / (kSamples - 1);
    CHOIR_RETURN_IF_ERROR(HashRange(t, at, at + kSampleBytes, buffer, hash));
  }
  return {};
}

StatusOr<std::string> DigestOf(const StoredTensor& t, bool whole, std::vector<std::byte>& buffer) {
  Sha256 hash;
  hash.Update(t.info.name + '\0' + t.info.dtype_name + '\0');
  for (const int64_t d : t.info.shape) hash.Update(std::to_string(d) + ',');
  CHOIR_RETURN_IF_ERROR(HashContent(t, whole, buffer, &hash));
  return ToHex(hash.Finish());
}

StatusOr<std::string> ComputeDigest(const WeightFiles& files) {
  const std::vector<const StoredTensor*> tensors = files.Sorted();
  const bool whole = files.total_bytes() <= kFullDigestMaxBytes;
  std::vector<std::string> digests(tensors.size());
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status failure;  // guarded by mutex
  ThreadTeam team(
      static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kThreadsMax)));
  team.Run([&](int) {
    std::vector<std::byte> buffer(kChunkBytes);
    for (size_t i = next++; i < tensors.size(); i = next++) {
      StatusOr<std::string> digest = DigestOf(*tensors[i], whole, buffer);
      if (digest.ok()) {
        digests[i] = std::move(digest).value();
        continue;
      }
      const std::lock_guard lock(mutex);
      failure.Update(digest.status());
      return;
    }
  });
  CHOIR_RETURN_IF_ERROR(failure);
  Sha256 all;
  for (const std::string& digest : digests) all.Update(digest);
  return ToHex(all.Finish());
}

// Changes whenever a file was written or replaced.
std::string CacheKey(const WeightFiles& files) {
  Sha256 hash;
  for (const auto& file : files.files()) {
    std::error_code error;
    const std::string path = std::filesystem::canonical(file->path(), error).string();
    hash.Update(fmt::format("{}\n{} {}\n", path.empty() ? file->path() : path, file->bytes().size(),
                            file->mtime_ns()));
  }
  return ToHex(hash.Finish());
}

// A cache that cannot be written costs time only.
void WriteCache(const std::string& path, const std::string& digest) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const std::string temporary = fmt::format("{}.{}", path, getpid());
  // Private from the first moment, as everything in the state directory.
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const bool written =
      fd >= 0 && write(fd, digest.data(), digest.size()) == static_cast<ssize_t>(digest.size());
  if (fd >= 0) close(fd);
  if (!written) {
    CHOIR_LOG(warn, "{}: the digest of the weights cannot be cached here", temporary);
    std::filesystem::remove(temporary, error);
    return;
  }
  std::filesystem::rename(temporary, path, error);
  if (error) std::filesystem::remove(temporary, error);
}

}  // namespace

bool IsHexDigest(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

StatusOr<std::string> WeightsDigest(const WeightFiles& files, const std::string& cache_dir) {
  if (cache_dir.empty()) return ComputeDigest(files);
  const std::string path = fmt::format("{}/weights-{}.sha256", cache_dir, CacheKey(files));
  std::string cached;
  if (std::ifstream in(path); in >> cached && IsHexDigest(cached)) return cached;
  CHOIR_ASSIGN_OR_RETURN(std::string digest, ComputeDigest(files));
  WriteCache(path, digest);
  return digest;
}

std::string NumericsId(const NumericsParts& p) {
  const std::string text = fmt::format(
      "choir numerics {}\nweights {}\nconfig {}\ndtype {}\nkernels {}\n", kNumericsVersion,
      p.weights_digest, ToHex(Sha256Of(p.config_text)), p.dtype, p.kernel_set);
  return ToHex(Sha256Of(text));
}

}  // namespace choir
