#include "router/core/input_rules.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "router/core/protocol_words.h"
#include "router/core/text_rules.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

ApiError RefusedBy(const char* param, const std::string& rule) {
  ApiError error =
      InvalidParam(param, fmt::format("{}: the content rule '{}' refuses it", param, rule));
  error.code = "content_rule";
  return error;
}

class InputRules {
 public:
  InputRules(std::shared_ptr<const ContentRules> rules, std::vector<RuleHits>* hits)
      : texts_(std::move(rules), hits) {}

  void Apply(std::string* text) { texts_.Apply(text); }
  void Apply(ordered_json* value) {
    if (value->is_string()) return Apply(value->get_ptr<std::string*>());
    if (value->is_array()) {
      for (ordered_json& item : *value) Apply(&item);
    } else if (value->is_object()) {
      ApplyToKeys(value);
      for (auto& [key, item] : value->items()) ApplyToField(key, &item);
    }
  }
  // Of chat_template_kwargs, whose own names are the template's variables.
  void ApplyToVariables(ordered_json* variables) {
    if (!variables->is_object()) return;
    for (auto& [name, value] : variables->items()) Apply(&value);
  }
  const std::string& refused_by() const { return texts_.refused_by(); }

 private:
  void ApplyToField(const std::string& key, ordered_json* value) {
    if (IsProtocolWord(key, *value)) return;
    if (key == "content" && value->is_array()) return ApplyToContent(value);
    if (key == "arguments" && value->is_string()) ApplyToArguments(value);
    Apply(value);
  }

  // The text parts are one text; all else of them is seen on its own.
  void ApplyToContent(ordered_json* parts) {
    std::vector<std::string*> texts;
    for (ordered_json& part : *parts) {
      ordered_json* text = &part;
      if (part.is_object()) {
        const auto found = part.find("text");
        text = found == part.end() ? nullptr : &*found;
      }
      if (text != nullptr && text->is_string()) texts.push_back(text->get_ptr<std::string*>());
    }
    texts_.ApplyToParts(texts);
    for (ordered_json& part : *parts) {
      if (!part.is_object()) continue;
      ApplyToKeys(&part);
      for (auto& [key, item] : part.items()) {
        if (key != "text" || !item.is_string()) ApplyToField(key, &item);
      }
    }
  }

  // The JSON text of an object: the template may show what it says instead of its letters. Escapes
  // are written out, as a rule that matched a part of one would break it.
  void ApplyToArguments(ordered_json* text) {
    const auto& written = text->get_ref<const std::string&>();
    auto arguments = ordered_json::parse(written, nullptr, /*allow_exceptions=*/false);
    if (!arguments.is_object()) return;
    const std::string before = arguments.dump();
    Apply(&arguments);
    std::string after = arguments.dump();
    if (after != before || written.find("\\u") != std::string::npos) *text = std::move(after);
  }

  // A key that a rule changes is another key from then on, so that none gets lost.
  void ApplyToKeys(ordered_json* object) {
    std::vector<std::string> names;
    bool changed = false;
    for (auto& [key, item] : object->items()) {
      std::string& name = names.emplace_back(key);
      if (!IsProtocolKey(key)) Apply(&name);
      changed |= name != key;
    }
    if (!changed) return;
    ordered_json out = ordered_json::object();
    auto name = names.begin();
    for (auto& [key, item] : object->items()) {
      while (out.contains(*name)) *name += '_';
      out[*name++] = std::move(item);
    }
    *object = std::move(out);
  }

  TextRules texts_;
};

// A field that is JSON text. What cannot be read stays: reading it says what is wrong.
template <typename How>
std::optional<ApiError> ApplyToJson(const char* field, InputRules* rules, std::string* text,
                                    How how) {
  if (text->empty()) return std::nullopt;
  auto value = ordered_json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return std::nullopt;
  how(&value);
  if (!rules->refused_by().empty()) return RefusedBy(field, rules->refused_by());
  *text = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  return std::nullopt;
}

std::optional<ApiError> ApplyToChat(InputRules* rules, ChatInput* chat) {
  const auto all = [rules](ordered_json* value) { rules->Apply(value); };
  const auto variables = [rules](ordered_json* value) { rules->ApplyToVariables(value); };
  if (auto error = ApplyToJson("messages", rules, &chat->messages_json, all)) return error;
  if (auto error = ApplyToJson("tools", rules, &chat->tools_json, all)) return error;
  return ApplyToJson("chat_template_kwargs", rules, &chat->template_kwargs_json, variables);
}

}  // namespace

std::optional<ApiError> ApplyInputRules(const Tokenizer& tokenizer, RequestInput* input,
                                        std::vector<RuleHits>* hits) {
  if (input->input_rules == nullptr) return std::nullopt;
  InputRules rules(input->input_rules, hits);
  if (auto* prompt = std::get_if<PromptText>(&input->content)) {
    rules.Apply(&prompt->text);
    if (!rules.refused_by().empty()) return RefusedBy("prompt", rules.refused_by());
  } else if (const auto* ids = std::get_if<PromptIds>(&input->content)) {
    auto text = tokenizer.Decode(ids->ids, /*skip_special=*/false);
    if (!text.ok()) return InvalidParam("token_ids", MessageOf(text.status()));
    const size_t before = hits->size();
    rules.Apply(&*text);
    if (!rules.refused_by().empty()) return RefusedBy("token_ids", rules.refused_by());
    if (hits->size() != before) {
      return InvalidParam("token_ids",
                          fmt::format("token_ids: the content rule '{}' changes their text; send "
                                      "it as text",
                                      hits->back().rule));
    }
  } else if (auto* chat = std::get_if<ChatInput>(&input->content)) {
    return ApplyToChat(&rules, chat);
  }
  return std::nullopt;
}

}  // namespace choir
