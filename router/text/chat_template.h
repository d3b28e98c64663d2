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

  // Messages are shown as transformers shows them: keys whose value is null are dropped, except
  // that null content is "" (clients send it with tool calls); the reasoning of a message is found
  // as reasoning_content and thinking whichever of reasoning_content, thinking and reasoning it
  // came as; tools and documents are always defined. Content given as a list of parts reaches the
  // template as it is when the template loops over content (a `for` over x.content, x['content'],
  // x.get('content'), a variable named content or one set to such a value); for all other templates
  // the text parts become one string, joined by line ends, and a part that is not text is an error.
  // Arguments of tool calls are passed as they come. kwargs become variables and win over special
  // tokens; chat_template among them names one of several templates.
  //
  // Different from Jinja: integers have 64 bits (beyond is an error), there are no complex numbers,
  // and the tags for inheritance and includes are refused.
  //
  // request: {"messages":[...], "tools":[...]?, "add_generation_prompt":bool, "kwargs":{...}?}.
  // InvalidArgument carries what raise_exception said or what went wrong, with the line.
  virtual StatusOr<std::string> Render(const nlohmann::ordered_json& request, const Clock& clock,
                                       const TemplateLimits& limits) const = 0;

  // A request as REST clients send it, made into one that this template understands: arguments of
  // tool calls that are the JSON text of an object become that object where the template shows
  // objects (found out by trying when it was loaded), and the role developer becomes system where
  // the template knows no developer.
  virtual void Adapt(nlohmann::ordered_json* request) const = 0;
};

}  // namespace choir
