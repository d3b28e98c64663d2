#include "tools/model/byte_tokenizer.h"

#include <nlohmann/json.hpp>

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kSpecials = 8;
constexpr int kLetters = 26;

constexpr char kChatTemplate[] =
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{{- '<|system|>' + message.content }}"
    "{%- elif message.role == 'user' %}{{- '<|user|>' + message.content }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<|assistant|>' + (message.content or '') + eos_token }}"
    "{%- else %}{{- raise_exception('the role ' + message.role + ' is unknown') }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}";

// GPT-2's stand-in for a byte: itself where that is a printable Latin-1 character, else the next
// unused code point from U+0100 on. In UTF-8.
std::string ByteSymbol(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  };
  int code = byte;
  if (!printable(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<std::string> merges;
};

Vocabulary MakeVocabulary(size_t size) {
  Vocabulary v;
  v.tokens = ByteTokenizerSpecials();
  for (int b = 0; b < 256; ++b) v.tokens.push_back(ByteSymbol(b));
  const auto add = [&](const std::string& left, const std::string& right) {
    if (v.tokens.size() == size) return;
    v.tokens.push_back(left + right);
    v.merges.push_back(left + " " + right);
  };
  std::vector<std::string> pairs;
  for (int first = -1; first < kLetters; ++first) {  // -1: a space
    const std::string left = ByteSymbol(first < 0 ? ' ' : 'a' + first);
    for (int second = 0; second < kLetters; ++second) {
      const std::string right = ByteSymbol('a' + second);
      add(left, right);
      pairs.push_back(left + right);
    }
  }
  for (const std::string& left : pairs) {
    if (v.tokens.size() == size) break;
    for (const std::string& right : pairs) add(left, right);
  }
  return v;
}

Json AddedToken(const std::string& content) {
  Json token = {{"content", content}};
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) token[flag] = false;
  token["special"] = true;
  return token;
}

std::string MakeTokenizerJson(const Vocabulary& vocabulary) {
  Json added = Json::array();
  const std::vector<std::string> specials = ByteTokenizerSpecials();
  for (size_t id = 0; id < specials.size(); ++id) {
    Json token = {{"id", id}};
    token.update(AddedToken(specials[id]));
    added.push_back(std::move(token));
  }
  Json vocab = Json::object();
  // All tokens are distinct; the map's own insert would compare each with all before it.
  auto& entries = static_cast<Json::object_t::Container&>(vocab.get_ref<Json::object_t&>());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    entries.emplace_back(vocabulary.tokens[i], i);
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  Json out = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  out["added_tokens"] = std::move(added);
  out["normalizer"] = nullptr;
  out["pre_tokenizer"] = byte_level;
  out["post_processor"] = nullptr;
  out["decoder"] = byte_level;
  out["model"] = {{"type", "BPE"},
                  {"dropout", nullptr},
                  {"unk_token", nullptr},
                  {"continuing_subword_prefix", nullptr},
                  {"end_of_word_suffix", nullptr},
                  {"fuse_unk", false},
                  {"byte_fallback", false},
                  {"ignore_merges", false}};
  out["model"]["vocab"] = std::move(vocab);
  out["model"]["merges"] = vocabulary.merges;
  return out.dump() + "\n";
}

}  // namespace

std::vector<std::string> ByteTokenizerSpecials() {
  return {"<s>",     "</s>",     "<|user|>",   "<|assistant|>",
          "<think>", "</think>", "<|system|>", "<|pad|>"};
}

StatusOr<TokenizerText> MakeByteTokenizer(int64_t vocab, int64_t context) {
  if (vocab < kByteTokenizerMinVocab || vocab > kByteTokenizerMaxVocab) {
    return InvalidArgument("--vocab {}: a byte-level tokenizer has {}..{} tokens", vocab,
                           kByteTokenizerMinVocab, kByteTokenizerMaxVocab);
  }
  TokenizerText text;
  text.tokenizer = MakeTokenizerJson(MakeVocabulary(static_cast<size_t>(vocab)));
  Json decoder = Json::object();
  const std::vector<std::string> specials = ByteTokenizerSpecials();
  for (size_t id = 0; id < specials.size(); ++id) {
    decoder[std::to_string(id)] = AddedToken(specials[id]);
  }
  Json config = Json::object();
  config["added_tokens_decoder"] = std::move(decoder);
  config.update(Json{{"bos_token", "<s>"},
                     {"eos_token", "</s>"},
                     {"pad_token", "<|pad|>"},
                     {"chat_template", kChatTemplate},
                     {"clean_up_tokenization_spaces", false},
                     {"model_max_length", context},
                     {"tokenizer_class", "PreTrainedTokenizerFast"}});
  text.tokenizer_config = config.dump(2) + "\n";
  return text;
}

float ByteTokenizerGain(int64_t token) {
  if (token < kSpecials) return 0.2f;
  const int64_t byte = token - kSpecials;
  return byte < 256 && (byte < ' ' || byte > '~') ? 0.55f : 1.0f;
}

}  // namespace choir
