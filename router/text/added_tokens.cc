#include "router/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "router/text/unicode.h"

namespace choir::text {
namespace {

bool EndsWithWord(std::string_view text) {
  if (text.empty()) return false;
  size_t pos = unicode::Previous(text, text.size());
  return unicode::IsWord(unicode::Next(text, &pos));
}

bool StartsWithWord(std::string_view text) {
  size_t pos = 0;
  return !text.empty() && unicode::IsWord(unicode::Next(text, &pos));
}

// Start of the whitespace that ends at `end`, not before `floor`.
size_t WhitespaceBefore(std::string_view text, size_t end, size_t floor) {
  while (end > floor) {
    const size_t start = unicode::Previous(text, end);
    size_t pos = start;
    if (!unicode::IsWhitespace(unicode::Next(text, &pos))) break;
    end = start;
  }
  return std::max(end, floor);
}

size_t WhitespaceBehind(std::string_view text, size_t from) {
  for (size_t pos = from; pos < text.size() && unicode::IsWhitespace(unicode::Next(text, &pos));) {
    from = pos;
  }
  return from;
}

}  // namespace

int32_t AddedTokens::Trie::Child(int32_t node, char byte) const {
  int32_t child = nodes_[node].child;
  while (child >= 0 && nodes_[child].byte != byte) child = nodes_[child].sibling;
  return child;
}

void AddedTokens::Trie::Add(std::string_view content, int32_t token) {
  if (content.empty()) return;
  int32_t node = -1;
  for (const char byte : content) {
    int32_t& first = node < 0 ? root_[static_cast<uint8_t>(byte)] : nodes_[node].child;
    int32_t child = node < 0 ? first : Child(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      const int32_t sibling = node < 0 ? -1 : first;
      first = child;
      nodes_.push_back({byte, -1, -1, sibling});
    }
    node = child;
  }
  if (nodes_[node].token < 0) nodes_[node].token = token;
}

int32_t AddedTokens::Trie::Next(std::string_view text, size_t from, size_t* begin,
                                size_t* end) const {
  for (size_t start = from; start < text.size(); ++start) {
    int32_t node = root_[static_cast<uint8_t>(text[start])];
    int32_t found = -1;
    for (size_t pos = start + 1; node >= 0; ++pos) {
      if (nodes_[node].token >= 0) {
        found = nodes_[node].token;
        *end = pos;
      }
      if (pos >= text.size()) break;
      node = Child(node, text[pos]);
    }
    if (found >= 0) {
      *begin = start;
      return found;
    }
  }
  return -1;
}

AddedTokens AddedTokens::Make(std::vector<AddedToken> tokens,
                              const std::function<std::string(const std::string&)>& normalize) {
  AddedTokens added;
  added.tokens_ = std::move(tokens);
  for (size_t i = 0; i < added.tokens_.size(); ++i) {
    const AddedToken& token = added.tokens_[i];
    added.by_id_[token.id] = i;
    added.ids_[token.content] = token.id;
    added.decoded_.push_back(token.normalized ? normalize(token.content) : token.content);
    Trie& trie = token.normalized ? added.normalized_ : added.raw_;
    trie.Add(added.decoded_.back(), static_cast<int32_t>(i));
  }
  return added;
}

bool AddedTokens::Cut(std::string_view text, bool normalized,
                      const std::function<bool(const Part&)>& part) const {
  const Trie& trie = normalized ? normalized_ : raw_;
  size_t done = 0;  // text up to here is handed out; behind `from` when whitespace was taken along
  size_t from = 0;
  size_t begin = 0;
  size_t end = 0;
  while (true) {
    const int32_t index = trie.Next(text, from, &begin, &end);
    if (index < 0) break;
    from = end;
    const AddedToken& token = tokens_[index];
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin = std::max(WhitespaceBefore(text, begin, std::min(done, begin)), done);
    if (token.rstrip) end = WhitespaceBehind(text, end);
    if (done < begin && !part({text.substr(done, begin - done), -1})) return false;
    if (!part({text.substr(std::min(begin, end), end - std::min(begin, end)), token.id})) {
      return false;
    }
    done = end;
  }
  return done >= text.size() || part({text.substr(done), -1});
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

const std::string* AddedTokens::DecodedText(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &decoded_[it->second];
}

std::optional<int32_t> AddedTokens::Id(std::string_view content) const {
  const auto it = ids_.find(std::string(content));
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

}  // namespace choir::text
