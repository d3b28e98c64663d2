#include "router/identity/keys.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <set>

#include "common/base/check.h"
#include "common/base/plain_name.h"
#include "common/config/file_watch.h"
#include "common/files/write_file.h"
#include "router/identity/base64url.h"

namespace choir {
namespace {

constexpr std::string_view kPrefix = "ck-";

uint64_t PrefixOf(const Sha256Digest& hash) {
  uint64_t prefix = 0;
  std::memcpy(&prefix, hash.data(), sizeof prefix);
  return prefix;
}

bool ParseHex(const std::string& text, Sha256Digest* out) {
  if (text.size() != out->size() * 2) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return false;
    (*out)[i / 2] = static_cast<uint8_t>(((*out)[i / 2] << 4) | digit);
  }
  return true;
}

std::vector<uint8_t> RandomBytes(size_t n) {
  std::vector<uint8_t> bytes(n);
  CHOIR_CHECK(RAND_bytes(bytes.data(), static_cast<int>(n)) == 1);
  return bytes;
}

std::string Rfc3339(WallTime time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(
      std::chrono::time_point_cast<std::chrono::system_clock::duration>(time));
  std::tm utc = {};
  gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace

StatusOr<WallTime> ParseKeyTime(const std::string& text) {
  std::tm utc = {};
  const char* end = strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  if (end == nullptr || *end != '\0') {
    return InvalidArgument("a time like 2026-02-03T04:05:06Z is needed, not '{}'", text);
  }
  constexpr time_t kEnd = 9'214'646'400;  // 2262, where nanoseconds in 64 bits end
  const time_t seconds = timegm(&utc);
  if (seconds < 0 || seconds >= kEnd) {
    return InvalidArgument("'{}': a time from 1970 to 2261 is needed", text);
  }
  return WallTime(std::chrono::seconds(seconds));
}

namespace {

Status ReadText(const std::string& key, const std::string& value, KeyRecord* record) {
  if (key == "id") {
    record->id = value;
  } else if (key == "hash") {
    if (!ParseHex(value, &record->hash)) {
      return InvalidArgument("hash: 64 lower-case hex digits are needed, not '{}'", value);
    }
  } else if (key == "tenant") {
    CHOIR_RETURN_IF_ERROR(CheckTenantName(value));
    record->tenant = value;
  } else if (key == "created") {
    record->created = value;
  } else if (key == "revoked") {
    record->revoked = value;
  } else if (key == "expires") {
    CHOIR_ASSIGN_OR_RETURN(const WallTime when, ParseKeyTime(value));
    SetExpiry(when, record);
  } else {
    return InvalidArgument(
        "unknown field '{}'; known are id, hash, tenant, created, revoked, expires, models, "
        "networks, class, limits",
        key);
  }
  return absl::OkStatus();
}

StatusOr<KeyRecord> ReadRecord(const YAML::Node& node) {
  KeyRecord record;
  bool has_hash = false;
  if (!node.IsMap()) return InvalidArgument("a map is needed");
  for (const auto& field : node) {
    const std::string key = field.first.as<std::string>();
    CHOIR_ASSIGN_OR_RETURN(const bool right, ReadRight(key, field.second, &record.rights));
    if (right) continue;
    if (!field.second.IsScalar()) return InvalidArgument("{}: a text is needed", key);
    CHOIR_RETURN_IF_ERROR(ReadText(key, field.second.as<std::string>(), &record));
    has_hash |= key == "hash";
  }
  if (record.id.empty() || !has_hash || record.tenant.empty()) {
    return InvalidArgument("id, hash and tenant are needed");
  }
  return record;
}

}  // namespace

KeyState StateOf(const KeyRecord& key, WallTime now) {
  if (!key.revoked.empty()) return KeyState::kRevoked;
  return now >= key.expires_at ? KeyState::kExpired : KeyState::kInForce;
}

const char* KeyStateName(KeyState state) {
  switch (state) {
    case KeyState::kInForce:
      return "in force";
    case KeyState::kRevoked:
      return "revoked";
    case KeyState::kExpired:
      return "expired";
  }
  return "?";
}

void SetExpiry(WallTime when, KeyRecord* key) {
  when = WallTime(std::chrono::floor<std::chrono::seconds>(when.time_since_epoch()));
  if (when >= key->expires_at) return;
  key->expires_at = when;
  key->expires = Rfc3339(when);
}

void Revoke(WallTime now, KeyRecord* key) { key->revoked = Rfc3339(now); }

Status CheckTenantName(const std::string& tenant) {
  if (IsPlainName(tenant, 64)) return absl::OkStatus();
  return InvalidArgument("tenant '{}': 1 to 64 of letters, digits, '.', '_' and '-' are needed",
                         tenant);
}

StatusOr<std::vector<KeyRecord>> ParseKeys(const std::string& text, const std::string& name) {
  std::vector<KeyRecord> keys;
  std::set<std::string> ids;
  std::set<Sha256Digest> hashes;
  try {
    const YAML::Node root = YAML::Load(text);
    // Also an empty file is refused: it may be one that is being written.
    if (!root.IsMap()) {
      return InvalidArgument("{}: a map with 'keys' is needed", name);
    }
    for (const auto& entry : root) {
      if (entry.first.as<std::string>() != "keys") {
        return InvalidArgument("{}: unknown key '{}'; known is keys", name,
                               entry.first.as<std::string>());
      }
    }
    const YAML::Node list = root["keys"];
    if (!list) return InvalidArgument("{}: a map with 'keys' is needed", name);
    if (list.IsNull()) return keys;
    if (!list.IsSequence()) return InvalidArgument("{}: keys: a list is needed", name);
    if (list.size() > kKeysMax) return InvalidArgument("{}: more than {} keys", name, kKeysMax);
    for (size_t i = 0; i < list.size(); ++i) {
      StatusOr<KeyRecord> record = ReadRecord(list[i]);
      if (!record.ok()) return Annotate(record.status(), fmt::format("{}: keys[{}]", name, i));
      if (!ids.insert(record->id).second || !hashes.insert(record->hash).second) {
        return InvalidArgument("{}: keys[{}]: id or hash of '{}' is there twice", name, i,
                               record->id);
      }
      keys.push_back(*std::move(record));
    }
  } catch (const YAML::Exception& e) {
    return InvalidArgument("{}: {}", name, e.what());
  }
  return keys;
}

std::string FormatKeys(const std::vector<KeyRecord>& keys) {
  YAML::Emitter out;
  out << YAML::BeginMap << YAML::Key << "keys" << YAML::Value << YAML::BeginSeq;
  for (const KeyRecord& key : keys) {
    out << YAML::Flow << YAML::BeginMap;
    out << YAML::Key << "id" << YAML::Value << key.id;
    out << YAML::Key << "hash" << YAML::Value << YAML::DoubleQuoted << ToHex(key.hash);
    out << YAML::Key << "tenant" << YAML::Value << YAML::DoubleQuoted << key.tenant;
    out << YAML::Key << "created" << YAML::Value << YAML::DoubleQuoted << key.created;
    if (!key.revoked.empty()) {
      out << YAML::Key << "revoked" << YAML::Value << YAML::DoubleQuoted << key.revoked;
    }
    if (!key.expires.empty()) {
      out << YAML::Key << "expires" << YAML::Value << YAML::DoubleQuoted << key.expires;
    }
    EmitRights(key.rights, &out);
    out << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

StatusOr<std::vector<KeyRecord>> LoadKeys(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, 64 << 20));
  return ParseKeys(text, path);
}

Status SaveKeys(const std::string& path, const std::vector<KeyRecord>& keys) {
  return WriteFileWhole(path, FormatKeys(keys), {.durable = true, .like_replaced = true});
}

NewKey MakeKey(const std::string& tenant, const Clock& clock) {
  NewKey key;
  key.secret = std::string(kPrefix) + ToBase64Url(RandomBytes(32));
  key.record.id = "k" + ToHex(RandomBytes(6));
  key.record.hash = Sha256Of(key.secret);
  key.record.tenant = tenant;
  key.record.created = Rfc3339(clock.Wall());
  return key;
}

std::string KeysWithBudget(const std::vector<KeyRecord>& keys, WallTime now) {
  constexpr size_t kNamedMax = 10;
  std::vector<std::string> ids;
  for (const KeyRecord& key : keys) {
    if (key.rights.limits.budget && StateOf(key, now) == KeyState::kInForce) ids.push_back(key.id);
  }
  if (ids.empty()) return "";
  const size_t more = ids.size() - std::min(ids.size(), kNamedMax);
  ids.resize(ids.size() - more);
  return fmt::format("{}{}", fmt::join(ids, ", "),
                     more > 0 ? fmt::format(" and {} more", more) : "");
}

KeySet::KeySet(std::vector<KeyRecord> keys) : keys_(std::move(keys)) {
  for (size_t i = 0; i < keys_.size(); ++i) by_prefix_.emplace(PrefixOf(keys_[i].hash), i);
}

const KeyRecord* KeySet::Find(std::string_view secret, WallTime now) const {
  if (!secret.starts_with(kPrefix) || secret.size() > 256) return nullptr;
  const Sha256Digest hash = Sha256Of(secret);
  const KeyRecord* found = nullptr;
  const auto [begin, end] = by_prefix_.equal_range(PrefixOf(hash));
  for (auto it = begin; it != end; ++it) {
    const KeyRecord& key = keys_[it->second];
    if (CRYPTO_memcmp(key.hash.data(), hash.data(), hash.size()) == 0) found = &key;
  }
  return found != nullptr && StateOf(*found, now) == KeyState::kInForce ? found : nullptr;
}

}  // namespace choir
