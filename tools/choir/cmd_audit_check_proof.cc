// `choir audit check-proof`: a proof of `choir audit prove`, checked without the log.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "common/config/file_watch.h"
#include "common/config/options.h"
#include "router/audit/audit_proof.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

constexpr size_t kProofBytesMax = 16 << 20;

StatusOr<std::string> ReadProof(const std::string& file) {
  std::ifstream opened;
  if (file != "-") opened.open(file);
  std::istream& in = file == "-" ? std::cin : opened;
  if (!in) return NotFound("{}: cannot be read", file);
  std::string text;
  for (char c; text.size() <= kProofBytesMax && in.get(c);) text += c;
  if (text.size() > kProofBytesMax) {
    return InvalidArgument("{}: has more than {} bytes, as no proof has", file, kProofBytesMax);
  }
  return text;
}

StatusOr<AuditVerifier> ReadKey(const std::string& file) {
  CHOIR_ASSIGN_OR_RETURN(const std::string pem, ReadSmallFile(file));
  return AuditVerifier::FromPem(pem, file);
}

int Say(int code, const Status& status) {
  std::fprintf(stderr, "choir audit check-proof: %s\n", MessageOf(status).c_str());
  return code;
}

}  // namespace

int RunAuditCheckProof(int argc, const char* const* argv) {
  std::string file, key_file;
  OptionSet set(
      "choir audit check-proof",
      "Checks a proof of `choir audit prove`, without the log: 0 the record is in the log "
      "whose key this is, 1 it is not proven, 2 nothing to check.",
      "");
  set.Add(&file, {.flag = "FILE", .help = "the proof; -: standard input", .required = true});
  set.Add(&key_file, {.flag = "--public-key",
                      .help = "public key of the log (public_key.pem), had from its owner",
                      .required = true});
  if (const std::optional<int> exit_code = set.Parse(argc, argv)) return *exit_code;
  const StatusOr<AuditVerifier> key = ReadKey(key_file);
  if (!key.ok()) return Say(2, key.status());
  const StatusOr<std::string> text = ReadProof(file);
  if (!text.ok()) return Say(2, text.status());
  const auto proof = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (proof.is_discarded()) return Say(2, InvalidArgument("{}: is no JSON", file));
  if (const Status status = CheckAuditProof(proof, *key); !status.ok()) return Say(1, status);
  const nlohmann::json& record = proof["record"];
  std::printf(
      "proven: record %s:%llu is in the log of key %s\n", record["log"].get<std::string>().c_str(),
      static_cast<unsigned long long>(record["seq"].get<uint64_t>()), key->fingerprint().c_str());
  return 0;
}

}  // namespace choir
