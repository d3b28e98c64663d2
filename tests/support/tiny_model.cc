#include "tests/support/tiny_model.h"

#include <stdlib.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/base/check.h"

namespace choir {
namespace {

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else {
    out->push_back(static_cast<char>(0xC0 | (c >> 6)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

// The printable characters that byte-level BPE files use for bytes: those that are printable stand
// for themselves, the others follow from U+0100 on.
std::string ByteCharacter(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  };
  std::string out;
  if (printable(byte)) {
    AppendUtf8(byte, &out);
    return out;
  }
  int before = 0;
  for (int b = 0; b < byte; ++b) before += !printable(b);
  AppendUtf8(256 + before, &out);
  return out;
}

nlohmann::ordered_json TokenizerJson() {
  nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
  for (int b = 0; b < 256; ++b) vocab[ByteCharacter(b)] = b;
  nlohmann::ordered_json added = nlohmann::ordered_json::array();
  const auto add = [&](int id, const char* content, bool special) {
    added.push_back({{"id", id},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  };
  add(kTinyEos, "<|end|>", true);
  add(kTinyBos, "<|begin|>", true);
  add(kTinyThinkOpen, "<think>", false);
  add(kTinyThinkClose, "</think>", false);
  const nlohmann::ordered_json byte_level = {{"type", "ByteLevel"},
                                             {"add_prefix_space", false},
                                             {"trim_offsets", true},
                                             {"use_regex", false}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", nlohmann::ordered_json::array()}}}};
}

constexpr char kTemplate[] =
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if think %}<think>\n{% endif %}{% endif %}";

}  // namespace

TinyModel::TinyModel() {
  std::string name = (std::filesystem::temp_directory_path() / "choir-tiny-XXXXXX").string();
  CHOIR_CHECK(mkdtemp(name.data()) != nullptr);
  dir_ = name;
  Write("tokenizer.json", TokenizerJson().dump());
  Write(
      "tokenizer_config.json",
      R"({"bos_token":"<|begin|>","eos_token":"<|end|>","tokenizer_class":"PreTrainedTokenizerFast"})");
  Write("chat_template.jinja", kTemplate);
  Write("config.json", nlohmann::json{{"model_type", "llama"},
                                      {"vocab_size", kTinyVocab},
                                      {"max_position_embeddings", kTinyContext},
                                      {"eos_token_id", kTinyEos}}
                           .dump());
  Write("generation_config.json", R"({"temperature":0.7,"top_p":0.9,"eos_token_id":[256]})");
}

TinyModel::~TinyModel() {
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

void TinyModel::Write(const std::string& file, const std::string& text) const {
  std::ofstream(dir_ / file, std::ios::binary) << text;
}

}  // namespace choir
