// BlockKey: the name of what a full KV block holds. The keys and values of a token are a function
// of all tokens up to it (kernels/kernels.h: exactness), so a block is named by a hash chain:
// SHA-256 over the key of the block before it and its own tokens. Two blocks with one key hold the
// same bits, and a key names the whole sequence up to its block's end.
//
// The chain begins with a salt: blocks of different salts never have one key, so tenants cannot
// learn from the time of an answer what others asked. Model, dtype and kernels are not in the key:
// a pool belongs to one numerics id. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "common/base/sha256.h"

namespace choir {

using BlockKey = Sha256Digest;

// Before the first block.
BlockKey RootKey(std::string_view salt);

// num_prompt: how many of `tokens`, from the first, are computed in the form of prompt tokens. Give
// all of them where the form is the same for prompt and generated tokens (KvLayout::by_role).
BlockKey ChildKey(const BlockKey& parent, std::span<const int32_t> tokens, int64_t num_prompt);

using BlockKeyHash = Sha256DigestHash;

}  // namespace choir
