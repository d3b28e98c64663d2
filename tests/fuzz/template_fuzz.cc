// Chat templates: any text is refused, or renders within its limits.
#include <nlohmann/json.hpp>

#include "common/base/check.h"
#include "router/text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using Json = nlohmann::ordered_json;
  static const Json* const kVariables = new Json{{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  static const Json* const kRequest = new Json(Json::parse(R"({"messages":[
    {"role":"system","content":"s"},
    {"role":"user","content":[{"type":"text","text":"h\u00e9llo"}]},
    {"role":"assistant","content":null,"reasoning_content":"r","tool_calls":[
      {"type":"function","id":"1","function":{"name":"f","arguments":{"x":1.5,"y":[true,null]}}}]},
    {"role":"tool","tool_call_id":"1","content":"7"}],
    "tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],
    "add_generation_prompt":true,"kwargs":{"n":3,"enable_thinking":false}})"));
  const choir::TemplateLimits limits = {.steps_max = 50'000,
                                        .depth_max = 30,
                                        .output_bytes_max = 1 << 20,
                                        .memory_bytes_max = 8 << 20};
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto parsed = choir::ChatTemplate::FromText(text, *kVariables);
  if (!parsed.ok()) {
    CHOIR_CHECK(!parsed.status().message().empty());
    return 0;
  }
  const auto rendered = (*parsed)->Render(*kRequest, choir::Clock::Real(), limits);
  if (rendered.ok()) CHOIR_CHECK(rendered->size() <= limits.output_bytes_max);
  return 0;
}
