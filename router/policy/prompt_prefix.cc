#include "router/policy/prompt_prefix.h"

#include <bit>
#include <cstring>

namespace choir {
namespace {

constexpr int kFineBits = 5;  // of a position's leading bits: 32 marks from one power of two on

uint64_t StrideAt(uint64_t num_blocks) {
  const int bits = std::bit_width(num_blocks);
  return uint64_t{1} << std::max(0, bits - kFineBits - 1);
}

}  // namespace

bool HasMark(uint64_t num_blocks) {
  return num_blocks > 0 && num_blocks % StrideAt(num_blocks) == 0;
}

uint32_t TokensToNextMark(uint32_t num_tokens, uint32_t block_tokens) {
  return static_cast<uint32_t>(StrideAt(num_tokens / block_tokens)) * block_tokens;
}

PromptPrefix MakePromptPrefix(std::span<const int32_t> tokens, std::string_view salt,
                              uint32_t block_tokens) {
  PromptPrefix prefix{.block_tokens = block_tokens};
  BlockKey key = RootKey(salt);
  for (size_t end = block_tokens, blocks = 1; end <= tokens.size(); end += block_tokens, ++blocks) {
    key = ChildKey(key, tokens.subspan(end - block_tokens, block_tokens), block_tokens);
    if (!HasMark(blocks)) continue;
    PrefixMark mark{.num_tokens = static_cast<uint32_t>(end)};
    std::memcpy(&mark.key, key.data(), sizeof mark.key);
    prefix.marks.push_back(mark);
  }
  return prefix;
}

}  // namespace choir
