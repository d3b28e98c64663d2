// The text side of the served model: tokenizer, chat template, generation defaults. Turns a request
// into tokens. Immutable after Load; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/core/api.h"
#include "router/core/validate.h"
#include "router/text/chat_template.h"
#include "router/text/tokenizer.h"

namespace choir {

struct PrepareLimits {
  uint32_t context_length = 0;       // of the workers; 0: only the model's own
  uint64_t seed = 0;                 // drawn, for a request without one
  uint32_t prefix_block_tokens = 0;  // 0: no PromptPrefix is wanted
  std::string cache_salt;            // of the prefix
};

// Ready for dispatch.
struct PreparedRequest {
  std::vector<int32_t> prompt;
  SequenceSampling sampling;
  uint32_t num_choices = 1;
  ChoiceTextOptions text;
  std::string echo;
  std::shared_ptr<const PromptPrefix> prefix;  // null: not wanted
};

class ModelText {
 public:
  // Reads tokenizer.json, the chat template (may be absent), config.json and generation_config.json
  // (may be absent); errors name file and field.
  static StatusOr<std::unique_ptr<ModelText>> Load(const std::string& model_dir,
                                                   uint32_t default_max_tokens);

  // Input rules that refuse the rendered prompt are added to `hits`.
  std::variant<PreparedRequest, ApiError> Prepare(const RequestInput& input,
                                                  const PrepareLimits& limits, const Clock& clock,
                                                  std::vector<RuleHits>* hits) const;

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  int32_t vocab_size() const { return vocab_size_; }  // ids a client may name
  uint32_t context_length() const { return context_length_; }
  const SamplingDefaults& defaults() const { return defaults_; }
  bool splits_reasoning() const { return splits_reasoning_; }

 private:
  ModelText() = default;
  Status ReadConfig(const std::string& model_dir);
  Status ReadGenerationConfig(const std::string& model_dir);
  Status ReadTemplate(const std::string& model_dir);
  std::variant<std::vector<int32_t>, ApiError> Tokens(const RequestInput& input, const Clock& clock,
                                                      ChoiceTextOptions* text,
                                                      std::vector<RuleHits>* hits) const;
  std::optional<ApiError> MakeEcho(const RequestInput& input, PreparedRequest* prepared) const;
  std::variant<std::string, ApiError> RenderChat(const ChatInput& chat, const Clock& clock,
                                                 const ContentRules* rules,
                                                 std::vector<RuleHits>* hits) const;

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> template_;  // null: the model has none
  ReasoningTags tags_;
  bool splits_reasoning_ = false;
  int32_t vocab_size_ = 0;
  uint32_t context_length_ = 0;
  SamplingDefaults defaults_;
};

}  // namespace choir
