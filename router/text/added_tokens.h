// Added tokens of tokenizer.json: texts that become one id wherever they stand, before anything
// else looks at the text. Immutable after Make, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/base/status.h"

namespace choir::text {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the whitespace before it along
  bool rstrip = false;       // and behind it
  bool normalized = false;   // is looked for in the normalized text, by its normalized content
  bool special = false;
};

class AddedTokens {
 public:
  // `normalize` makes the form of a normalized token that is looked for.
  static AddedTokens Make(std::vector<AddedToken> tokens,
                          const std::function<std::string(const std::string&)>& normalize);

  // A stretch of text between added tokens (id < 0), or an added token.
  struct Part {
    std::string_view text;
    int32_t id = -1;
  };
  // Calls `part` for the parts of `text` in order, until it returns false. Leftmost-longest matches
  // of the tokens of one kind, as the library cuts: raw text first, then what is left, normalized.
  bool Cut(std::string_view text, bool normalized,
           const std::function<bool(const Part&)>& part) const;

  const AddedToken* Find(int32_t id) const;
  // What decoding starts from: a normalized token's normalized content, as the library has it since
  // 0.22.
  const std::string* DecodedText(int32_t id) const;
  std::optional<int32_t> Id(std::string_view content) const;

 private:
  // A trie of contents; the root's children by byte, others as sibling lists.
  class Trie {
   public:
    Trie() { root_.fill(-1); }
    void Add(std::string_view content, int32_t token);
    // The next match at or behind `from`: leftmost, then longest. -1: none.
    int32_t Next(std::string_view text, size_t from, size_t* begin, size_t* end) const;

   private:
    struct Node {
      char byte;
      int32_t token = -1;
      int32_t child = -1;
      int32_t sibling = -1;
    };
    int32_t Child(int32_t node, char byte) const;

    std::array<int32_t, 256> root_;
    std::vector<Node> nodes_;
  };

  std::vector<AddedToken> tokens_;
  std::vector<std::string> decoded_;  // DecodedText of tokens_
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, int32_t> ids_;
  Trie raw_;
  Trie normalized_;
};

}  // namespace choir::text
