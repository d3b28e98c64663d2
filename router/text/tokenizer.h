// Tokenizer: Hugging Face tokenizer.json to token ids and back, exactly as the `tokenizers`
// library. Immutable after Load; any thread may call. Load checks everything and names file, field
// and remedy.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace choir {

class Tokenizer {
 public:
  // Reads tokenizer.json and tokenizer_config.json (add_bos_token, bos/eos names) of a model
  // directory.
  static StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);
  virtual ~Tokenizer() = default;

  // add_special: what the post-processor and add_bos_token/add_eos_token add. Special tokens
  // written in `text` become their ids. Never fails on odd bytes: ill-formed UTF-8 is read as
  // U+FFFD; bytes without a token vanish. Fails only when a regular expression hits its match
  // limit.
  virtual StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special) const = 0;

  // Text of the ids, ill-formed UTF-8 as U+FFFD per maximal subpart. Ids outside the vocabulary:
  // error.
  virtual StatusOr<std::string> Decode(const std::vector<int32_t>& ids,
                                       bool skip_special) const = 0;

  // The stretches of `text`, which outlives them, before, between and behind its special tokens.
  virtual std::vector<std::string_view> BetweenMarks(std::string_view text) const = 0;

  // The bytes that a token adds to the text before any cleaning (logprobs' `bytes`); "" for ids
  // without text and out-of-range ids. Special tokens give their content.
  virtual std::string TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
  virtual std::optional<int32_t> TokenId(std::string_view content) const = 0;
  virtual int32_t vocab_size() const = 0;  // highest id + 1
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;
  virtual std::string bos_token() const = 0;  // "" when there is none
  virtual std::string eos_token() const = 0;
};

// Streaming decode of one choice: give it tokens as they come, it returns the text that is certain:
// whole characters only, and the concatenation equals Tokenizer::Decode of all ids. One thread.
class StreamingDetokenizer {
 public:
  StreamingDetokenizer(const Tokenizer* tokenizer, bool skip_special);
  ~StreamingDetokenizer();
  std::string Push(int32_t id);
  std::string Flush();  // the rest: an unfinished last character as U+FFFD

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace choir
