// `choir keys add|list|revoke|rotate`: the file that a router reads its API keys from, and follows.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"
#include "common/base/print_error.h"
#include "common/config/options.h"
#include "router/identity/keys.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

struct KeysOptions {
  std::string file;
  std::string tenant;
  std::vector<std::string> ids;
  std::vector<std::string> models, networks, limits;  // of a new key
  std::string admission_class;
  std::string expires;
  Duration overlap = std::chrono::hours(24);
  bool json = false;
};

enum class Needs { kTenant, kNothing, kTenantOrIds };

void AddRightsOptions(OptionSet* set, KeysOptions* o) {
  set->Add(&o->models,
           {.flag = "--model", .help = "a model that it may use; may be repeated [all]"});
  set->Add(&o->networks, {.flag = "--network",
                          .help = "10.0.0.0/8 that it may be used from; may be repeated [all]"});
  set->Add(&o->admission_class,
           {.flag = "--class", .help = "interactive, default, bulk or system [its tenant's]"});
  set->Add(&o->limits, {.flag = "--limit",
                        .help = "NAME=VALUE beside its tenant's limits, as "
                                "requests_per_second=5; may be repeated"});
  set->Add(&o->expires,
           {.flag = "--expires", .help = "2026-02-03T04:05:06Z, or 24h from now [never]"});
}

Status SetLimits(const std::vector<std::string>& limits, LimitRules* rules) {
  for (const std::string& limit : limits) {
    const size_t equals = limit.find('=');
    if (equals == std::string::npos) return InvalidArgument("'{}' is not NAME=VALUE", limit);
    CHOIR_RETURN_IF_ERROR(SetLimitRule(limit.substr(0, equals), limit.substr(equals + 1), rules));
  }
  return CompleteLimitRules(rules);
}

StatusOr<WallTime> ExpiryOf(const std::string& text, WallTime now) {
  StatusOr<WallTime> when = ParseKeyTime(text);
  const StatusOr<Duration> from_now = ParseDuration(text);
  if (!when.ok() && !from_now.ok()) {
    return InvalidArgument("'{}' is neither a time like 2026-02-03T04:05:06Z nor one like 24h",
                           text);
  }
  if (!when.ok()) when = now + *from_now;
  if (*when <= now) return InvalidArgument("'{}' is over", text);
  return when;
}

Status SetRights(const KeysOptions& o, KeyRecord* key) {
  for (const std::string& model : o.models) {
    CHOIR_RETURN_IF_ERROR(Annotate(AddModel(model, &key->rights), "--model"));
  }
  for (const std::string& network : o.networks) {
    CHOIR_RETURN_IF_ERROR(Annotate(AddNetwork(network, &key->rights), "--network"));
  }
  if (!o.admission_class.empty()) {
    CHOIR_RETURN_IF_ERROR(Annotate(SetClass(o.admission_class, &key->rights), "--class"));
  }
  CHOIR_RETURN_IF_ERROR(Annotate(SetLimits(o.limits, &key->rights.limits), "--limit"));
  if (o.expires.empty()) return absl::OkStatus();
  const auto when = ExpiryOf(o.expires, Clock::Real().Wall());
  if (!when.ok()) return Annotate(when.status(), "--expires");
  SetExpiry(*when, key);
  return absl::OkStatus();
}

std::optional<int> Parse(const char* summary, Needs needs, int argc, const char* const* argv,
                         KeysOptions* o) {
  const bool changes = needs == Needs::kTenantOrIds;
  const bool rotates = std::string_view(argv[0]).ends_with("rotate");
  OptionSet set(argv[0], summary, "");
  set.Add(&o->file, {.flag = "--file", .help = "the file of keys", .required = true});
  set.Add(&o->tenant, {.flag = "--tenant",
                       .help = changes ? "all keys in force of this tenant" : "whose key",
                       .required = needs == Needs::kTenant});
  if (changes) {
    set.Add(&o->ids, {.flag = "--id", .help = "this key (see choir keys list); may be repeated"});
  }
  if (needs == Needs::kTenant) AddRightsOptions(&set, o);
  if (rotates) {
    set.AddDuration(&o->overlap,
                    {.flag = "--overlap", .help = "how long the replaced keys stay good"},
                    Duration(0), std::chrono::hours(24 * 366));
  }
  set.Add(&o->json, {.flag = "--json", .help = "print JSON"});
  set.AddCheck([o, needs, changes] {
    if (changes && o->tenant.empty() && o->ids.empty()) {
      return InvalidArgument("which keys? give --tenant or --id");
    }
    if (o->tenant.empty() && needs != Needs::kTenant) return absl::OkStatus();
    CHOIR_RETURN_IF_ERROR(CheckTenantName(o->tenant));
    KeyRecord trial;
    return SetRights(*o, &trial);
  });
  return set.Parse(argc, argv);
}

int Fail(const char* program, const Status& status) {
  PrintError(program, status);
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

// Reads the file (none is as if empty), lets `change` work on the keys, writes it.
Status ChangeKeys(const std::string& file, bool may_be_new,
                  const std::function<Status(std::vector<KeyRecord>*)>& change) {
  const DirectoryLock lock(file);
  if (!lock.held()) return Unavailable("{}: its directory: {}", file, std::strerror(errno));
  std::vector<KeyRecord> keys;
  struct stat st = {};
  if (!may_be_new || stat(file.c_str(), &st) == 0) {
    CHOIR_ASSIGN_OR_RETURN(keys, LoadKeys(file));
  }
  CHOIR_RETURN_IF_ERROR(change(&keys));
  if (keys.size() > kKeysMax) return ResourceExhausted("{}: holds {} keys already", file, kKeysMax);
  return SaveKeys(file, keys);
}

// The keys that the options name: the given ids, or all of the tenant in force.
StatusOr<std::vector<KeyRecord*>> Chosen(const KeysOptions& o, WallTime now,
                                         std::vector<KeyRecord>* keys) {
  std::vector<KeyRecord*> chosen;
  for (const std::string& id : o.ids) {
    const auto it =
        std::find_if(keys->begin(), keys->end(), [&](const auto& key) { return key.id == id; });
    if (it == keys->end()) return NotFound("{}: there is no key '{}'", o.file, id);
    if (!o.tenant.empty() && it->tenant != o.tenant) {
      return InvalidArgument("key '{}' is of tenant '{}', not '{}'", id, it->tenant, o.tenant);
    }
    if (std::find(chosen.begin(), chosen.end(), &*it) == chosen.end()) chosen.push_back(&*it);
  }
  if (!o.ids.empty()) return chosen;
  for (KeyRecord& key : *keys) {
    if (key.tenant == o.tenant && StateOf(key, now) == KeyState::kInForce) chosen.push_back(&key);
  }
  if (chosen.empty()) return NotFound("{}: tenant '{}' has no key in force", o.file, o.tenant);
  return chosen;
}

// All of one tenant and with the same rights, whose new key `next` shall be; they end after the
// overlap.
StatusOr<std::vector<KeyRecord>> Replace(const KeysOptions& o, NewKey* next,
                                         std::vector<KeyRecord>* keys) {
  const WallTime now = Clock::Real().Wall();
  CHOIR_ASSIGN_OR_RETURN(const std::vector<KeyRecord*> chosen, Chosen(o, now, keys));
  std::vector<KeyRecord> replaced;
  for (KeyRecord* key : chosen) {
    if (key->tenant != chosen[0]->tenant) {
      return InvalidArgument("the keys are of the tenants '{}' and '{}': rotate one at a time",
                             chosen[0]->tenant, key->tenant);
    }
    if (key->rights != chosen[0]->rights) {
      return InvalidArgument("the keys '{}' and '{}' may do different things: rotate one at a time",
                             chosen[0]->id, key->id);
    }
    if (StateOf(*key, now) != KeyState::kInForce) {
      return FailedPrecondition("key '{}' is {} and cannot be rotated; choir keys add makes one",
                                key->id, KeyStateName(StateOf(*key, now)));
    }
    SetExpiry(now + o.overlap, key);
    replaced.push_back(*key);
  }
  *next = MakeKey(replaced[0].tenant, Clock::Real());
  next->record.rights = replaced[0].rights;
  keys->push_back(next->record);
  return replaced;
}

// The secret alone on stdout, so that it can be piped.
void PrintSecret(const NewKey& key) {
  std::fprintf(stderr, "key %s of tenant %s; it is not shown again:\n", key.record.id.c_str(),
               key.record.tenant.c_str());
  std::printf("%s\n", key.secret.c_str());
}

nlohmann::ordered_json RightsJson(const Rights& rights) {
  nlohmann::ordered_json out = {{"models", rights.models}};
  out["networks"] = nlohmann::ordered_json::array();
  for (const IpNetwork& network : rights.networks) out["networks"].push_back(network.Text());
  out["class"] = nullptr;
  if (rights.admission_class) out["class"] = AdmissionClassName(*rights.admission_class);
  out["limits"] = nlohmann::ordered_json::object();
  for (const auto& [name, value] : FormatLimitRules(rights.limits)) {
    out["limits"][name] = nlohmann::ordered_json::parse(value);
  }
  return out;
}

nlohmann::ordered_json TextOrNull(const std::string& text) {
  return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
}

}  // namespace

int RunKeysAdd(int argc, const char* const* argv) {
  KeysOptions o;
  if (const auto code = Parse("Makes an API key for a tenant; the key is shown once.",
                              Needs::kTenant, argc, argv, &o)) {
    return *code;
  }
  NewKey key = MakeKey(o.tenant, Clock::Real());
  if (const Status set = SetRights(o, &key.record); !set.ok()) return Fail(argv[0], set);
  const Status status = ChangeKeys(o.file, /*may_be_new=*/true, [&](auto* keys) {
    keys->push_back(key.record);
    return absl::OkStatus();
  });
  if (!status.ok()) return Fail(argv[0], status);
  if (key.record.rights.limits.budget) {
    std::fprintf(stderr,
                 "%s: warning: a budget has no effect where there is no "
                 "router.limits.prices\n",
                 argv[0]);
  }
  if (o.json) {
    const nlohmann::ordered_json out = {
        {"key", key.secret}, {"id", key.record.id}, {"tenant", key.record.tenant}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    PrintSecret(key);
  }
  return 0;
}

int RunKeysList(int argc, const char* const* argv) {
  KeysOptions o;
  if (const auto code = Parse("Lists the API keys of a file, without their secrets.",
                              Needs::kNothing, argc, argv, &o)) {
    return *code;
  }
  const auto keys = LoadKeys(o.file);
  if (!keys.ok()) return Fail(argv[0], keys.status());
  const WallTime now = Clock::Real().Wall();
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  constexpr const char* kRow = "%-16s %-24s %-22s %-10s %-22s %s\n";
  if (!o.json) std::printf(kRow, "ID", "TENANT", "CREATED", "STATE", "UNTIL", "RIGHTS");
  for (const KeyRecord& key : *keys) {
    if (!o.tenant.empty() && key.tenant != o.tenant) continue;
    const char* state = KeyStateName(StateOf(key, now));
    if (o.json) {
      list.push_back({{"id", key.id},
                      {"tenant", key.tenant},
                      {"created", key.created},
                      {"state", state},
                      {"revoked", TextOrNull(key.revoked)},
                      {"expires", TextOrNull(key.expires)}});
      list.back().update(RightsJson(key.rights));
    } else {
      const std::string& end = key.revoked.empty() ? key.expires : key.revoked;
      std::printf(kRow, key.id.c_str(), key.tenant.c_str(), key.created.c_str(), state,
                  end.empty() ? "-" : end.c_str(), RightsText(key.rights).c_str());
    }
  }
  if (o.json) std::printf("%s\n", list.dump(2).c_str());
  return 0;
}

int RunKeysRevoke(int argc, const char* const* argv) {
  KeysOptions o;
  if (const auto code = Parse("Ends API keys: a running router refuses them within a second.",
                              Needs::kTenantOrIds, argc, argv, &o)) {
    return *code;
  }
  std::vector<KeyRecord> revoked;
  const Status status = ChangeKeys(o.file, /*may_be_new=*/false, [&](auto* keys) -> Status {
    const WallTime now = Clock::Real().Wall();
    CHOIR_ASSIGN_OR_RETURN(const std::vector<KeyRecord*> chosen, Chosen(o, now, keys));
    for (KeyRecord* key : chosen) {
      if (key->revoked.empty()) Revoke(now, key);
      revoked.push_back(*key);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return Fail(argv[0], status);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const KeyRecord& key : revoked) {
    list.push_back({{"id", key.id}, {"tenant", key.tenant}, {"revoked", key.revoked}});
    if (!o.json) std::printf("revoked %s of tenant %s\n", key.id.c_str(), key.tenant.c_str());
  }
  if (o.json) std::printf("%s\n", nlohmann::ordered_json{{"revoked", list}}.dump().c_str());
  return 0;
}

int RunKeysRotate(int argc, const char* const* argv) {
  KeysOptions o;
  if (const auto code = Parse(
          "Makes a new API key for a tenant, shown once; the replaced keys end after the overlap.",
          Needs::kTenantOrIds, argc, argv, &o)) {
    return *code;
  }
  NewKey next;
  std::vector<KeyRecord> replaced;
  const Status status = ChangeKeys(o.file, /*may_be_new=*/false, [&](auto* keys) -> Status {
    CHOIR_ASSIGN_OR_RETURN(replaced, Replace(o, &next, keys));
    return absl::OkStatus();
  });
  if (!status.ok()) return Fail(argv[0], status);
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const KeyRecord& key : replaced) {
    list.push_back({{"id", key.id}, {"expires", key.expires}});
    if (!o.json) {
      std::fprintf(stderr, "key %s ends at %s\n", key.id.c_str(), key.expires.c_str());
    }
  }
  if (o.json) {
    const nlohmann::ordered_json out = {{"key", next.secret},
                                        {"id", next.record.id},
                                        {"tenant", next.record.tenant},
                                        {"replaces", list}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    PrintSecret(next);
  }
  return 0;
}

}  // namespace choir
