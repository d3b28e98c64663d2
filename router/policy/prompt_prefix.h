// The beginnings of a prompt, by the names under which workers cache them (common/kv/block_key.h).
// Not of every block's end: the further in, the fewer, so that a prompt of a million tokens has
// some 400 marks, and what lies between two of them is at most 1/32 of what is before them. Which
// ends are marked depends on their position only: prompts that begin alike have the same marks as
// far as they do. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/kv/block_key.h"

namespace choir {

struct PrefixMark {
  uint64_t key = 0;         // a part of the block's: alike by chance one time in 2^64
  uint32_t num_tokens = 0;  // from the prompt's first to the block's end
};

struct PromptPrefix {
  uint32_t block_tokens = 0;
  std::vector<PrefixMark> marks;  // shortest first; whole blocks only
};

// As a worker whose blocks hold `block_tokens` tokens names them for `salt`. REQUIRES: block_tokens
// > 0
PromptPrefix MakePromptPrefix(std::span<const int32_t> tokens, std::string_view salt,
                              uint32_t block_tokens);

// Whether the end of so many blocks has a mark.
bool HasMark(uint64_t num_blocks);
// How many more tokens than a mark of `num_tokens` the next one has.
uint32_t TokensToNextMark(uint32_t num_tokens, uint32_t block_tokens);

}  // namespace choir
