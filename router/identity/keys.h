// The file of API keys: who may ask. A key is `ck-` and 256 random bits in base64url; the file
// holds only its SHA-256 (a key of full entropy needs no slow hash), so a stolen file lets nobody
// in.
//
//   keys:
//     - {id: k3f9a1c20, hash: "<64 hex digits>", tenant: acme, created: "2026-01-02T03:04:05Z"}
//     - {id: ..., hash: ..., tenant: ..., created: ..., revoked: "2026-02-03T04:05:06Z"}
//     - {id: ..., hash: ..., tenant: ..., created: ..., expires: "2026-02-03T04:05:06Z"}
//     - {id: ..., hash: ..., tenant: ..., created: ..., models: [my-moe], class: bulk}  # rights.h
//
// A rotated key has an end (`expires`), so that it and its successor are both good for a while.
// Shared by the router and by `choir keys`. Pure values and plain file functions; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "router/identity/rights.h"

namespace choir {

struct KeyRecord {
  std::string id;  // names the key in logs and lists; no secret
  Sha256Digest hash{};
  std::string tenant;   // [A-Za-z0-9._-], 1..64
  std::string created;  // RFC 3339, UTC
  std::string revoked;  // empty: not revoked
  std::string expires;  // RFC 3339, UTC; empty: never. Set with SetExpiry
  WallTime expires_at = WallTime::max();
  Rights rights;
};

enum class KeyState { kInForce, kRevoked, kExpired };
KeyState StateOf(const KeyRecord& key, WallTime now);
const char* KeyStateName(KeyState state);  // "in force", "revoked", "expired"
// RFC 3339 in UTC and whole seconds, 1970 to 2261: "2026-02-03T04:05:06Z".
StatusOr<WallTime> ParseKeyTime(const std::string& text);
// Never later than it is; whole seconds.
void SetExpiry(WallTime when, KeyRecord* key);
void Revoke(WallTime now, KeyRecord* key);

inline constexpr size_t kKeysMax = 100'000;

// `name` is the file's, for errors. Unknown fields, bad values and doubled ids or hashes are
// errors.
StatusOr<std::vector<KeyRecord>> ParseKeys(const std::string& text, const std::string& name);
std::string FormatKeys(const std::vector<KeyRecord>& keys);
StatusOr<std::vector<KeyRecord>> LoadKeys(const std::string& path);
// Replaces the file atomically, readable by its owner only.
Status SaveKeys(const std::string& path, const std::vector<KeyRecord>& keys);

Status CheckTenantName(const std::string& tenant);

struct NewKey {
  std::string secret;  // shown once
  KeyRecord record;
};
NewKey MakeKey(const std::string& tenant, const Clock& clock);

// Says which keys in force at `now` have a budget, by their ids; "": none has.
std::string KeysWithBudget(const std::vector<KeyRecord>& keys, WallTime now);

// Finds the record of a presented key. Immutable.
class KeySet {
 public:
  KeySet() = default;
  explicit KeySet(std::vector<KeyRecord> keys);

  // The record when the key is known and in force at `now`. The comparison takes the same time
  // wherever two hashes differ.
  const KeyRecord* Find(std::string_view secret, WallTime now) const;
  size_t size() const { return keys_.size(); }
  const std::vector<KeyRecord>& keys() const { return keys_; }

 private:
  std::vector<KeyRecord> keys_;
  std::multimap<uint64_t, size_t> by_prefix_;  // first eight bytes of the hash: index into keys_
};

}  // namespace choir
