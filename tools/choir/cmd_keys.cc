// `choir keys add | list`: the file of API keys that a router reads. Keys are shown once, stored
// hashed.
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/config/options.h"
#include "router/identity/keys.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

int Fail(const char* program, const Status& status) {
  std::fprintf(stderr, "%s: %s\n", program, MessageOf(status).c_str());
  return 1;
}

Json RecordJson(const KeyRecord& k) {
  return {{"id", k.id},
          {"tenant", k.tenant},
          {"created", k.created},
          {"revoked", k.revoked.empty() ? Json() : Json(k.revoked)}};
}

StatusOr<NewKey> AddKey(const std::string& file, const std::string& tenant) {
  CHOIR_RETURN_IF_ERROR(CheckTenantName(tenant));
  std::vector<KeyRecord> keys;
  if (std::filesystem::exists(file)) {
    CHOIR_ASSIGN_OR_RETURN(keys, LoadKeys(file));
  }
  NewKey added = MakeKey(tenant, Clock::Real());
  keys.push_back(added.record);
  CHOIR_RETURN_IF_ERROR(SaveKeys(file, keys));
  return added;
}

}  // namespace

int RunKeysAdd(int argc, const char* const* argv) {
  std::string file, tenant;
  bool json = false;
  OptionSet options("choir keys add",
                    "Makes an API key and shows it once; the file keeps its hash.", "");
  options.Add(&file, {.flag = "--file", .help = "keys file; made when absent", .required = true});
  options.Add(&tenant, {.flag = "--tenant", .help = "who the key belongs to", .required = true});
  options.Add(&json, {.flag = "--json", .help = "print JSON"});
  if (const auto code = options.Parse(argc, argv)) return *code;
  const auto added = AddKey(file, tenant);
  if (!added.ok()) return Fail(argv[0], added.status());
  if (json) {
    Json out = RecordJson(added->record);
    out["key"] = added->secret;
    std::printf("%s\n", out.dump().c_str());
  } else {
    std::printf("%s\n", added->secret.c_str());
    std::fprintf(stderr, "key %s of tenant %s; it is not shown again\n", added->record.id.c_str(),
                 tenant.c_str());
  }
  return 0;
}

int RunKeysList(int argc, const char* const* argv) {
  std::string file;
  bool json = false;
  OptionSet options("choir keys list", "Lists the keys of a file, without the keys themselves.",
                    "");
  options.Add(&file, {.flag = "--file", .help = "keys file", .required = true});
  options.Add(&json, {.flag = "--json", .help = "print JSON"});
  if (const auto code = options.Parse(argc, argv)) return *code;
  const auto keys = LoadKeys(file);
  if (!keys.ok()) return Fail(argv[0], keys.status());
  Json list = Json::array();
  for (const KeyRecord& k : *keys) {
    list.push_back(RecordJson(k));
    if (json) continue;
    std::printf("%-12s %-24s %s%s\n", k.id.c_str(), k.tenant.c_str(), k.created.c_str(),
                k.revoked.empty() ? "" : (" revoked " + k.revoked).c_str());
  }
  if (json) std::printf("%s\n", list.dump(2).c_str());
  return 0;
}

}  // namespace choir
