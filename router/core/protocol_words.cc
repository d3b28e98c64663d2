#include "router/core/protocol_words.h"

#include <nlohmann/json.hpp>
#include <set>

namespace choir {

bool IsProtocolWord(const std::string& key, const nlohmann::ordered_json& value) {
  static const std::set<std::string> kRoles = {"system",    "developer", "user",
                                               "assistant", "tool",      "function"};
  static const std::set<std::string> kTypes = {"text",   "function",  "object",      "array",
                                               "string", "number",    "integer",     "boolean",
                                               "null",   "image_url", "input_audio", "file"};
  if (!value.is_string()) return false;
  const auto& word = value.get_ref<const std::string&>();
  return (key == "role" && kRoles.contains(word)) || (key == "type" && kTypes.contains(word));
}

bool IsProtocolKey(const std::string& key) {
  static const std::set<std::string> kKeys = {
      "role",       "content",     "name",       "type",         "text",
      "tool_calls", "id",          "function",   "tool_call_id", "arguments",
      "parameters", "description", "properties", "required",     "enum",
      "items",      "strict",      "reasoning",  "thinking",     "reasoning_content",
      "default",    "nullable",    "format",     "title",        "const",
      "oneOf",      "anyOf",       "allOf"};
  return kKeys.contains(key);
}

}  // namespace choir
