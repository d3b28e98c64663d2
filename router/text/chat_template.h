// Chat template of a model directory: the Jinja that published templates use, byte-exact against
// transformers' apply_chat_template. Immutable after Load; any thread may call Render.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

struct TemplateLimits {
  uint64_t steps_max = 5'000'000;         // interpreter steps
  uint32_t depth_max = 100;               // nesting of calls and expressions
  uint64_t output_bytes_max = 64 << 20;   // also of any text on the way
  uint64_t memory_bytes_max = 256 << 20;  // of all values alive at once
};

class ChatTemplate {
 public:
  // chat_template.jinja wins over tokenizer_config.json's chat_template (a string, or a list of
  // named templates: tool_use when tools are given, else default). NotFound when the directory has
  // none. The special tokens' texts (bos_token, eos_token, ...) of tokenizer_config.json are
  // template variables.
  static StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& model_dir);
  // From template text, for tests: `variables` are the special tokens as a JSON object.
  static StatusOr<std::unique_ptr<ChatTemplate>> FromText(const std::string& text,
                                                          const nlohmann::ordered_json& variables);
  virtual ~ChatTemplate() = default;

  // request: {"messages":[...], "tools":[...]?, "add_generation_prompt":bool, "kwargs":{...}?}.
  // InvalidArgument carries what raise_exception said or what went wrong, with the line.
  virtual StatusOr<std::string> Render(const nlohmann::ordered_json& request, const Clock& clock,
                                       const TemplateLimits& limits) const = 0;
};

}  // namespace choir
