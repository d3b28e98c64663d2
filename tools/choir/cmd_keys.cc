// `choir keys add` and `choir keys list`: the file that a router reads its API keys from.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/config/options.h"
#include "router/identity/keys.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

struct KeysOptions {
  std::string file;
  std::string tenant;
  bool json = false;
};

std::optional<int> Parse(const char* summary, bool tenant_needed, int argc, const char* const* argv,
                         KeysOptions* o) {
  OptionSet set(argv[0], summary, "");
  set.Add(&o->file, {.flag = "--file", .help = "the file of keys", .required = true});
  set.Add(&o->tenant, {.flag = "--tenant", .help = "whose key", .required = tenant_needed});
  set.Add(&o->json, {.flag = "--json", .help = "print JSON"});
  set.AddCheck([o] { return o->tenant.empty() ? absl::OkStatus() : CheckTenantName(o->tenant); });
  return set.Parse(argc, argv);
}

int Fail(const char* program, const Status& status) {
  std::fprintf(stderr, "%s: %s\n", program, MessageOf(status).c_str());
  return 1;
}

// Held while the file is read and replaced: two commands at once must not lose a key. It locks the
// directory, as the file itself is another one after each change.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& file) {
    std::string dir = std::filesystem::path(file).parent_path().string();
    if (dir.empty()) dir = ".";
    fd_ = open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    held_ = fd_ >= 0 && flock(fd_, LOCK_EX) == 0;
  }
  ~DirectoryLock() {
    if (fd_ >= 0) close(fd_);
  }
  bool held() const { return held_; }

 private:
  int fd_ = -1;
  bool held_ = false;
};

Status AddKey(const std::string& file, const KeyRecord& record) {
  const DirectoryLock lock(file);
  if (!lock.held()) return Unavailable("{}: its directory: {}", file, std::strerror(errno));
  std::vector<KeyRecord> keys;
  struct stat st = {};
  if (stat(file.c_str(), &st) == 0) {
    CHOIR_ASSIGN_OR_RETURN(keys, LoadKeys(file));
  }
  if (keys.size() >= kKeysMax)
    return ResourceExhausted("{}: holds {} keys already", file, kKeysMax);
  keys.push_back(record);
  return SaveKeys(file, keys);
}

}  // namespace

int RunKeysAdd(int argc, const char* const* argv) {
  KeysOptions o;
  if (const auto code =
          Parse("Makes an API key for a tenant; the key is shown once.", true, argc, argv, &o)) {
    return *code;
  }
  const NewKey key = MakeKey(o.tenant, Clock::Real());
  if (const Status status = AddKey(o.file, key.record); !status.ok()) return Fail(argv[0], status);
  if (o.json) {
    const nlohmann::ordered_json out = {
        {"key", key.secret}, {"id", key.record.id}, {"tenant", key.record.tenant}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    std::fprintf(stderr, "key %s of tenant %s; it is not shown again:\n", key.record.id.c_str(),
                 key.record.tenant.c_str());
    std::printf("%s\n", key.secret.c_str());
  }
  return 0;
}

int RunKeysList(int argc, const char* const* argv) {
  KeysOptions o;
  if (const auto code =
          Parse("Lists the API keys of a file, without their secrets.", false, argc, argv, &o)) {
    return *code;
  }
  const auto keys = LoadKeys(o.file);
  if (!keys.ok()) return Fail(argv[0], keys.status());
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  if (!o.json) std::printf("%-16s %-24s %-22s %s\n", "ID", "TENANT", "CREATED", "REVOKED");
  for (const KeyRecord& key : *keys) {
    if (!o.tenant.empty() && key.tenant != o.tenant) continue;
    if (o.json) {
      nlohmann::ordered_json entry = {
          {"id", key.id}, {"tenant", key.tenant}, {"created", key.created}, {"revoked", nullptr}};
      if (!key.revoked.empty()) entry["revoked"] = key.revoked;
      list.push_back(std::move(entry));
    } else {
      std::printf("%-16s %-24s %-22s %s\n", key.id.c_str(), key.tenant.c_str(), key.created.c_str(),
                  key.revoked.empty() ? "-" : key.revoked.c_str());
    }
  }
  if (o.json) std::printf("%s\n", list.dump(2).c_str());
  return 0;
}

}  // namespace choir
