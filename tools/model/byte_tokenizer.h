// A byte-level BPE tokenizer of any vocabulary size for random models: every id has a text, every
// text has ids. Ids: the special tokens, the 256 bytes, then pairs of letters, then pairs of pairs.
// Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace choir {

// <s> </s> <|user|> <|assistant|> <think> </think> <|system|> <|pad|>
std::vector<std::string> ByteTokenizerSpecials();

inline constexpr int64_t kByteTokenizerMinVocab = 264;     // specials and bytes
inline constexpr int64_t kByteTokenizerMaxVocab = 493770;  // and all pairs and pairs of pairs

struct TokenizerText {
  std::string tokenizer;         // tokenizer.json
  std::string tokenizer_config;  // with the chat template
};

// InvalidArgument outside the limits above.
StatusOr<TokenizerText> MakeByteTokenizer(int64_t vocab, int64_t context);

// How loud a token's row of the output head should be (1: as any other): special tokens end or
// derail answers and bytes beyond ASCII are no text, so answers of random models are kept free of
// most of them.
float ByteTokenizerGain(int64_t token);

}  // namespace choir
