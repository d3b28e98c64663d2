#include "router/audit/audit_proof.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "router/audit/canonical_json.h"
#include "router/audit/merkle.h"

namespace choir {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kNumberEnd = uint64_t{1} << 53;
constexpr size_t kPathMax = 64;
constexpr int kDepthMax = 64;

std::optional<uint64_t> Number(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_number_unsigned()) return std::nullopt;
  const auto number = it->get<uint64_t>();
  return number < kNumberEnd ? std::optional(number) : std::nullopt;
}

std::optional<std::string> Text(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? std::optional(it->get<std::string>())
                                               : std::nullopt;
}

std::optional<Sha256Digest> Digest(const Json& hex) {
  Sha256Digest digest{};
  if (!hex.is_string()) return std::nullopt;
  const auto& text = hex.get_ref<const std::string&>();
  if (text.size() != 2 * digest.size()) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t value = std::string_view("0123456789abcdef").find(text[i]);
    if (value == std::string_view::npos) return std::nullopt;
    digest[i / 2] = static_cast<uint8_t>(digest[i / 2] * 16 + value);
  }
  return digest;
}

// Numbers that the canonical text cannot hold, or more nesting than any record has, are not ours.
bool HasCanonicalText(const Json& value, int depth = 0) {
  if (value.is_structured()) {
    return depth < kDepthMax && std::all_of(value.begin(), value.end(), [depth](const Json& item) {
             return HasCanonicalText(item, depth + 1);
           });
  }
  return IsCanonicalScalar(value);
}

Status CheckHash(const std::string& name, const Json& record) {
  const auto hash = Text(record, "hash");
  if (!hash || !Text(record, "log") || !Number(record, "seq") || !HasCanonicalText(record)) {
    return InvalidArgument("{}: is no record of an audit log", name);
  }
  if (ToHex(Sha256Of(CanonicalWithout(record, {"hash"}))) == *hash) return absl::OkStatus();
  return InvalidArgument("{}.hash: is not the hash of the record: it was changed", name);
}

Status CheckSignature(const Json& checkpoint, const AuditVerifier& key) {
  if (Text(checkpoint, "phase") != "checkpoint") {
    return InvalidArgument("checkpoint.phase: is no checkpoint's");
  }
  if (Text(checkpoint, "key_fp") != key.fingerprint()) {
    return InvalidArgument("checkpoint.key_fp: names another key than the public key given, {}",
                           key.fingerprint());
  }
  const auto signature = Text(checkpoint, "signature");
  if (signature && key.Verify(CanonicalWithout(checkpoint, {"hash", "signature"}), *signature)) {
    return absl::OkStatus();
  }
  return InvalidArgument("checkpoint.signature: is not of the checkpoint and this public key");
}

// Siblings from leaf `index` of a tree with `size` leaves up to its root.
size_t PathLength(uint64_t index, uint64_t size) {
  size_t length = 0;
  for (uint64_t last = size - 1; last > 0; last >>= 1, index >>= 1) {
    length += index < last || (index & 1) != 0 ? 1 : 0;
  }
  return length;
}

}  // namespace

Status CheckAuditProof(const Json& proof, const AuditVerifier& key) {
  for (const char* name : {"record", "checkpoint"}) {
    if (proof.is_object() && proof.contains(name) && proof[name].is_object()) continue;
    return InvalidArgument("{}: is missing: this is no proof of `choir audit prove`", name);
  }
  const Json &record = proof["record"], &checkpoint = proof["checkpoint"];
  CHOIR_RETURN_IF_ERROR(CheckHash("record", record));
  CHOIR_RETURN_IF_ERROR(CheckHash("checkpoint", checkpoint));
  CHOIR_RETURN_IF_ERROR(CheckSignature(checkpoint, key));
  const auto index = Number(proof, "index"), size = Number(proof, "size");
  const auto first = Number(checkpoint, "first");
  if (!index || !size || *index >= *size) {
    return InvalidArgument("index: is no place among `size` records");
  }
  if (*size != Number(checkpoint, "count")) {
    return InvalidArgument("size: is not the checkpoint's count");
  }
  if (record["log"] != checkpoint["log"] || !first || Number(record, "seq") != *first + *index) {
    return InvalidArgument("index: is not the place of this record under the checkpoint");
  }
  std::vector<Sha256Digest> path;
  for (const Json& hex : proof.value("path", Json::array())) {
    const auto digest = Digest(hex);
    if (!digest || path.size() == kPathMax) {
      return InvalidArgument("path: must be a list of SHA-256 digests in hex");
    }
    path.push_back(*digest);
  }
  if (path.size() != PathLength(*index, *size)) {
    return InvalidArgument("path: has {} digests where {} are needed", path.size(),
                           PathLength(*index, *size));
  }
  const Sha256Digest root = RootOfPath(record["hash"].get<std::string>(), *index, *size, path);
  if (ToHex(root) == Text(checkpoint, "root")) return absl::OkStatus();
  return InvalidArgument("path: does not lead from the record to the checkpoint's root");
}

}  // namespace choir
