#include "tools/model/staged_directory.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <fstream>
#include <utility>

namespace choir {
namespace {

namespace fs = std::filesystem;

// A run that still goes on keeps its directory.
void RemoveLeftovers(const fs::path& target) {
  const std::string prefix = target.filename().string() + ".part-";
  const fs::path parent = target.has_parent_path() ? target.parent_path() : fs::path(".");
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(prefix)) continue;
    pid_t pid = 0;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), pid);
    const bool gone = pid == getpid() || (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH);
    if (gone) fs::remove_all(entry.path(), error);
  }
}

}  // namespace

StatusOr<StagedDirectory> StagedDirectory::Create(const fs::path& target) {
  RemoveLeftovers(target);
  fs::path part = fmt::format("{}.part-{}", target.string(), getpid());
  std::error_code error;
  fs::create_directories(part, error);
  if (error) return FailedPrecondition("cannot make {}: {}", part.string(), error.message());
  return StagedDirectory(target, std::move(part));
}

StagedDirectory::StagedDirectory(StagedDirectory&& other) noexcept
    : target_(std::move(other.target_)), part_(std::exchange(other.part_, {})) {}

StagedDirectory::~StagedDirectory() {
  std::error_code error;
  if (!part_.empty()) fs::remove_all(part_, error);
}

Status StagedDirectory::Commit() {
  std::error_code error;
  const fs::path old = part_.string() + ".old";
  if (fs::exists(target_, error)) fs::rename(target_, old, error);
  fs::rename(part_, target_, error);
  if (error) return FailedPrecondition("cannot make {}: {}", target_.string(), error.message());
  part_.clear();
  fs::remove_all(old, error);
  return absl::OkStatus();
}

Status WriteTextFile(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) return ResourceExhausted("cannot write {}", path.string());
  return absl::OkStatus();
}

fs::path DirectoryPath(std::string text) {
  while (text.size() > 1 && text.ends_with('/')) text.pop_back();
  return text;
}

}  // namespace choir
