#include "router/audit/audit_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/rand.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "common/base/check.h"
#include "common/files/write_file.h"

namespace choir {
namespace {

using Json = nlohmann::json;

Status Failed(const std::string& path, const char* what) {
  const int error = errno;
  return Unavailable("{}: {}: {}", path, what, std::strerror(error));
}

std::string NewLogId() {
  uint64_t id = 0;
  CHOIR_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&id), sizeof id) == 1);
  return fmt::format("log-{:016x}", id);
}

constexpr uint64_t kNamesBytesMax = uint64_t{64} << 20;  // read within a second
constexpr char kReserve[] = "reserve";
constexpr char kEvidence[] = "keep the directory as evidence and give the router an empty one";

}  // namespace

AuditStore::AuditStore(AuditStoreOptions options, const Clock* clock, AuditSigner signer)
    : options_(std::move(options)), clock_(clock), signer_(std::move(signer)) {}

AuditStore::~AuditStore() {
  if (segment_ >= 0) close(segment_);
  if (lock_ >= 0) close(lock_);
}

StatusOr<std::unique_ptr<AuditStore>> AuditStore::Open(AuditStoreOptions options,
                                                       const Clock* clock) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(options.dir).parent_path(), error);
  if (mkdir(options.dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return Failed(options.dir, "cannot be made");
  }
  CHOIR_ASSIGN_OR_RETURN(const auto segments, ListAuditSegments(options.dir));
  CHOIR_ASSIGN_OR_RETURN(AuditSigner signer, AuditSigner::Open(options.keys_dir, segments.empty()));
  std::unique_ptr<AuditStore> store(new AuditStore(std::move(options), clock, std::move(signer)));
  CHOIR_RETURN_IF_ERROR(store->Recover());
  return store;
}

Status AuditStore::Recover() {
  const std::string lock = Path("lock");
  lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_ < 0) return Failed(lock, "cannot be opened");
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    return FailedPrecondition("{}: another router writes there; give each its own directory",
                              options_.dir);
  }
  CHOIR_ASSIGN_OR_RETURN(const auto segments, ListAuditSegments(options_.dir));
  CHOIR_ASSIGN_OR_RETURN(const auto head, ReadAuditHead(options_.dir));
  if (segments.empty() && !head) {
    recovery_.fresh = true;
    chain_ = AuditChain({.log = NewLogId()});
    CHOIR_RETURN_IF_ERROR(
        WriteFileWhole(Path(kAuditPublicKeyFile), signer_.public_pem(), {.durable = true}));
  } else {
    if (segments.empty() || !head) {
      return FailedPrecondition("{}: {} is missing; {}", options_.dir,
                                head ? "every segment" : kAuditHeadFile, kEvidence);
    }
    CHOIR_RETURN_IF_ERROR(ReplaySegments(segments));
    CHOIR_RETURN_IF_ERROR(CompareHead(*head));
    recovery_.names = ReadClientNames(segments, kNamesBytesMax);
    recovery_.open.assign(chain_.open().begin(), chain_.open().end());
  }
  chain_.Commit();
  CHOIR_RETURN_IF_ERROR(EnsureReserve());
  return WriteHead(false);
}

// The last segment record by record; of the one before, only its last line.
Status AuditStore::ReplaySegments(const std::vector<std::string>& segments) {
  if (segments.size() > 1) {
    std::string last;
    CHOIR_RETURN_IF_ERROR(
        ReadAuditLines(segments[segments.size() - 2], [&last](std::string_view line) {
          last = line;
          return absl::OkStatus();
        }).status());
    const Json seal = Json::parse(last, nullptr, false);
    if (!seal.is_object() || seal.value("phase", "") != "checkpoint" || !seal.contains("hash")) {
      return FailedPrecondition("{}: does not end with its checkpoint; {}",
                                segments[segments.size() - 2], kEvidence);
    }
    chain_.Replay(seal);
  }
  const std::string& path = segments.back();
  AuditChecker checker(chain_.position());
  bool sealed = false;
  const auto tail = ReadAuditLines(path, [&](std::string_view line) -> Status {
    const StatusOr<Json> record = checker.Next(line);
    if (!record.ok()) {
      return FailedPrecondition("{}: record {}: {}; {}", path, checker.position().seq + 1,
                                MessageOf(record.status()), kEvidence);
    }
    chain_.Replay(*record);
    sealed = (*record)["phase"] == "checkpoint" && (*record)["seals"].get<bool>();
    if ((*record)["phase"] == "checkpoint") checked_seq_ = checker.position().seq;
    return absl::OkStatus();
  });
  CHOIR_RETURN_IF_ERROR(tail.status());
  recovery_.torn_bytes = tail->torn_bytes;
  if (sealed && tail->torn_bytes == 0) return absl::OkStatus();
  segment_ = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (segment_ < 0) return Failed(path, "cannot be opened");
  segment_bytes_ = tail->whole_bytes;
  segment_began_ = clock_->Now();
  if (ftruncate(segment_, static_cast<off_t>(segment_bytes_)) != 0 ||
      lseek(segment_, 0, SEEK_END) < 0 || fdatasync(segment_) != 0) {
    return Failed(path, "cannot be repaired");
  }
  return absl::OkStatus();
}

Status AuditStore::CompareHead(const AuditHead& head) {
  const AuditPosition& end = chain_.position();
  CHOIR_ASSIGN_OR_RETURN(const AuditVerifier verifier,
                         AuditVerifier::FromPem(signer_.public_pem(), "signing.pem"));
  if (!verifier.Verify(head.text, head.signature)) {
    return FailedPrecondition("{}: its signature is not of the key in {}; {}", Path(kAuditHeadFile),
                              options_.keys_dir, kEvidence);
  }
  if (head.position.log != end.log && end.seq > 0) {
    return FailedPrecondition("{}: is of another log; {}", Path(kAuditHeadFile), kEvidence);
  }
  if (end.seq == 0) chain_ = AuditChain({.log = head.position.log});
  const bool same = head.position.seq == end.seq && head.position.hash == end.hash;
  if (head.position.seq > end.seq || (head.closed && (!same || recovery_.torn_bytes > 0))) {
    return FailedPrecondition(
        "{}: the log ended at record {}, now it ends at {}: it was changed; {}", options_.dir,
        head.position.seq, end.seq, kEvidence);
  }
  recovery_.clean = head.closed;
  return absl::OkStatus();
}

Status AuditStore::OpenSegment() {
  const std::string path = Path(AuditSegmentName(chain_.position().seq + 1));
  segment_ = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (segment_ < 0) return Failed(path, "cannot be made");
  segment_bytes_ = 0;
  segment_began_ = clock_->Now();
  return SyncDirectory(options_.dir);
}

StatusOr<uint64_t> AuditStore::Append(std::span<Json> records, bool durable) {
  if (broken_) {
    return Unavailable("{}: a failed write could not be taken back; restart the router",
                       options_.dir);
  }
  if (segment_ < 0) CHOIR_RETURN_IF_ERROR(OpenSegment());
  const uint64_t first = chain_.position().seq + 1;
  const WallTime now = clock_->Wall();
  std::string lines;
  for (Json& record : records) lines += chain_.Append(record, now);
  CHOIR_RETURN_IF_ERROR(WriteLines(lines, durable));
  return first;
}

// After an error the file and the chain are as before.
Status AuditStore::WriteLines(const std::string& lines, bool durable) {
  const bool written = WriteAll(segment_, lines) && (!durable || fdatasync(segment_) == 0);
  if (!written) {
    const Status status = Failed(options_.dir, "cannot be written");
    const auto end = static_cast<off_t>(segment_bytes_);
    if (ftruncate(segment_, end) != 0 || lseek(segment_, end, SEEK_SET) != end) broken_ = true;
    chain_.RollBack();
    return status;
  }
  chain_.Commit();
  segment_bytes_ += lines.size();
  unsynced_ = !durable;
  return absl::OkStatus();
}

Status AuditStore::Sync() {
  if (!unsynced_) return absl::OkStatus();
  if (fdatasync(segment_) != 0) return Failed(options_.dir, "fdatasync");
  unsynced_ = false;
  return absl::OkStatus();
}

Status AuditStore::WriteCheckpoint(bool seals) {
  CHOIR_RETURN_IF_ERROR(WriteLines(chain_.Checkpoint(signer_, seals, clock_->Wall()), true));
  checked_seq_ = chain_.position().seq;
  return absl::OkStatus();
}

Status AuditStore::Checkpoint() {
  if (segment_ < 0 || chain_.position().seq == checked_seq_) return absl::OkStatus();
  CHOIR_RETURN_IF_ERROR(WriteCheckpoint(false));
  return WriteHead(false);
}

Status AuditStore::RotateIfDue() {
  if (segment_ < 0 || chain_.segment_records() == 0) return absl::OkStatus();
  const bool old = clock_->Now() - segment_began_ >= options_.segment_time;
  if (segment_bytes_ < options_.segment_bytes && !old) return absl::OkStatus();
  CHOIR_RETURN_IF_ERROR(WriteCheckpoint(true));
  close(segment_);
  segment_ = -1;
  return WriteHead(false);
}

Status AuditStore::Close() {
  if (segment_ >= 0) {
    CHOIR_RETURN_IF_ERROR(WriteCheckpoint(true));
    close(segment_);
    segment_ = -1;
  }
  return WriteHead(true);
}

Status AuditStore::WriteHead(bool closed) {
  return WriteFileWhole(Path(kAuditHeadFile), FormatAuditHead(chain_.position(), closed, signer_),
                        {.durable = true});
}

void AuditStore::ReleaseReserve() {
  unlink(Path(kReserve).c_str());
  has_reserve_ = false;
}

Status AuditStore::EnsureReserve() {
  if (has_reserve_) return absl::OkStatus();
  const std::string path = Path(kReserve);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return Failed(path, "cannot be made");
  const int error = posix_fallocate(fd, 0, static_cast<off_t>(options_.reserve_bytes));
  close(fd);
  if (error != 0) {
    unlink(path.c_str());
    return Unavailable("{}: no room for {} bytes: {}", path, options_.reserve_bytes,
                       std::strerror(error));
  }
  has_reserve_ = true;
  return absl::OkStatus();
}

}  // namespace choir
