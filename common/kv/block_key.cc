#include "common/kv/block_key.h"

namespace choir {

BlockKey RootKey(std::string_view salt) {
  Sha256 sha;
  sha.Update("choir kv salt 1\n");
  sha.Update(salt);
  return sha.Finish();
}

BlockKey ChildKey(const BlockKey& parent, std::span<const int32_t> tokens, int64_t num_prompt) {
  Sha256 sha;
  sha.Update(std::as_bytes(std::span(parent)));
  sha.Update(std::as_bytes(tokens));
  sha.Update(std::as_bytes(std::span(&num_prompt, 1)));
  return sha.Finish();
}

}  // namespace choir
