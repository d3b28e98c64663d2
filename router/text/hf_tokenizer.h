// The Tokenizer of a Hugging Face tokenizer.json: added tokens, normalizer, pre-tokenizer, BPE
// model, post-processor and decoder, one after the other. Implementation of tokenizer.h; nobody
// else needs it.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "router/text/added_tokens.h"
#include "router/text/bpe.h"
#include "router/text/decoder.h"
#include "router/text/normalizer.h"
#include "router/text/pre_tokenizer.h"
#include "router/text/tokenizer.h"

namespace choir::text {

class HfTokenizer : public Tokenizer {
 public:
  // `config`: tokenizer_config.json, or null.
  static StatusOr<std::unique_ptr<HfTokenizer>> FromJson(const nlohmann::json& tokenizer,
                                                         const nlohmann::json& config);

  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special) const override;
  StatusOr<std::string> Decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  std::vector<std::string_view> BetweenMarks(std::string_view text) const override;
  std::string TokenBytes(int32_t id) const override;
  bool IsSpecial(int32_t id) const override;
  std::optional<int32_t> TokenId(std::string_view content) const override;
  int32_t vocab_size() const override { return vocab_size_; }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  std::optional<int32_t> eos_id() const override { return eos_id_; }
  std::string bos_token() const override { return bos_token_; }
  std::string eos_token() const override { return eos_token_; }

  // For StreamingDetokenizer.
  DecodeStream StartDecode() const { return decoder_.Start(); }
  // What the decoder makes text of; nullopt: no such id.
  std::optional<std::string_view> TokenText(int32_t id) const;

 private:
  // What one Encode writes to. Kept between calls, because it remembers words.
  struct Workspace {
    PreTokenizerScratch pre;
    BpeScratch bpe;
  };
  class WordSink;

  explicit HfTokenizer(Bpe bpe) : bpe_(std::move(bpe)) {}
  Status ReadAddedTokens(const nlohmann::json& tokenizer);
  Status ReadPostProcessor(const nlohmann::json& tokenizer);
  Status ReadConfig(const nlohmann::json& config);
  bool EncodeSection(std::string_view section, bool at_start, Workspace* work,
                     std::vector<int32_t>* ids) const;
  std::unique_ptr<Workspace> TakeWorkspace() const;
  void ReturnWorkspace(std::unique_ptr<Workspace> workspace) const;

  Bpe bpe_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokens added_;
  Decoder decoder_;
  std::vector<int32_t> before_;  // what the post-processor or add_bos_token puts around the text
  std::vector<int32_t> behind_;
  bool has_template_ = false;
  int32_t vocab_size_ = 0;
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  std::string bos_token_;
  std::string eos_token_;

  mutable std::mutex mu_;
  mutable std::vector<std::unique_ptr<Workspace>> idle_;  // guarded by mu_; bounded
};

}  // namespace choir::text
