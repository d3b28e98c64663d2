// JWK sets: a set that is taken has keys that are found under their names and can be used; the text
// after the set is what a key is used on.
#include "common/base/check.h"
#include "common/base/log.h"
#include "router/identity/jwks.h"
#include "tests/fuzz/json_mutator.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using choir::JwkSet;
  static const bool kQuiet = choir::InitLog("fuzz", "off").ok();  // keys that are skipped
  CHOIR_CHECK(kQuiet);
  const auto [json, signature] = choir::fuzz::SplitInput(data, size);
  const auto set = JwkSet::Parse(json, "f");
  if (!set.ok()) {
    CHOIR_CHECK(!set.status().message().empty());
    return 0;
  }
  CHOIR_CHECK((*set)->size() > 0);
  for (const char* const algorithm : {"RS256", "ES256", "EdDSA", "none", "HS256"}) {
    const JwkSet::Key* const key = (*set)->Find(algorithm, std::nullopt);
    if (key == nullptr) continue;
    CHOIR_CHECK(std::string_view(algorithm) != "none" && std::string_view(algorithm) != "HS256");
    CHOIR_CHECK((*set)->Find(algorithm, JwkSet::Name(*key)) == key);
    const bool good = JwkSet::Verify(*key, "header.claims", signature);
    CHOIR_CHECK(good == JwkSet::Verify(*key, "header.claims", signature));
  }
  return 0;
}
