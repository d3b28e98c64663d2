// A directory that appears whole or not at all: filled under another name beside the target, then
// renamed. One thread. What is not committed is removed; so are leftovers of runs that were killed.
#pragma once

#include <filesystem>
#include <string>

#include "common/base/status.h"

namespace choir {

class StagedDirectory {
 public:
  static StatusOr<StagedDirectory> Create(const std::filesystem::path& target);
  StagedDirectory(StagedDirectory&& other) noexcept;
  StagedDirectory& operator=(StagedDirectory&&) = delete;
  ~StagedDirectory();

  const std::filesystem::path& path() const { return part_; }
  // Moves it to the target; what is there makes way, so ask before.
  Status Commit();

 private:
  StagedDirectory(std::filesystem::path target, std::filesystem::path part)
      : target_(std::move(target)), part_(std::move(part)) {}

  std::filesystem::path target_;
  std::filesystem::path part_;  // empty: moved away or committed
};

Status WriteTextFile(const std::filesystem::path& path, const std::string& text);

// The path without slashes at its end.
std::filesystem::path DirectoryPath(std::string text);

}  // namespace choir
