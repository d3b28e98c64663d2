// The public keys that tokens are signed with: a JWK set (RFC 7517) from a file. RS256 (RSA of 2048
// to 8192 bits), ES256 (P-256) and EdDSA (Ed25519); each key is good for its one algorithm, so that
// a token cannot choose how it is looked at. Immutable, any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace choir {

class JwkSet {
 public:
  class Key;

  // `name` is the file's, for errors. Keys for other purposes, of other kinds and of weak ones are
  // skipped and logged, as the RFC has it; it is an error when none is left, when two have the
  // same name, and when a private or symmetric key lies there.
  static StatusOr<std::shared_ptr<const JwkSet>> Parse(const std::string& text,
                                                       const std::string& name);
  ~JwkSet();

  // The key of that name for that algorithm. Without a name (a token need not have one) the only
  // key for it. Null: there is none.
  const Key* Find(std::string_view algorithm, const std::optional<std::string>& kid) const;
  // Whether the signature, as a token has it, is the key's of that text.
  static bool Verify(const Key& key, std::string_view text, std::string_view signature);
  static const std::string& Name(const Key& key);  // its kid; empty: it has none
  size_t size() const { return keys_.size(); }

 private:
  JwkSet();
  std::vector<std::unique_ptr<const Key>> keys_;
};

}  // namespace choir
