#include "router/core/input_rules.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

namespace choir {
namespace {

using nlohmann::ordered_json;

ApiError RefusedBy(const char* param, const std::string& rule) {
  ApiError error =
      InvalidParam(param, fmt::format("{}: the content rule '{}' refuses it", param, rule));
  error.code = "content_rule";
  return error;
}

// One filter a text: a match does not reach from one message into the next.
class InputRules {
 public:
  InputRules(std::shared_ptr<const ContentRules> rules, std::vector<RuleHits>* hits)
      : rules_(std::move(rules)), hits_(hits) {}

  void Apply(std::string* text) {
    ContentFilter filter(rules_);
    std::string out = ApplyRules(*text, &filter);
    AddHits(filter, hits_);
    if (refused_by_.empty()) refused_by_ = filter.refused_by();
    *text = std::move(out);
  }
  void Apply(ordered_json* value) {
    static const std::set<std::string> kNames = {"role", "type", "name", "id", "tool_call_id"};
    if (value->is_string()) return Apply(value->get_ptr<std::string*>());
    if (value->is_array()) {
      for (ordered_json& item : *value) Apply(&item);
    } else if (value->is_object()) {
      for (auto& [key, item] : value->items()) {
        if (!kNames.contains(key)) Apply(&item);
      }
    }
  }
  const std::string& refused_by() const { return refused_by_; }

 private:
  const std::shared_ptr<const ContentRules> rules_;
  std::vector<RuleHits>* const hits_;
  std::string refused_by_;
};

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
    auto messages = ordered_json::parse(chat->messages_json, nullptr, /*allow_exceptions=*/false);
    if (messages.is_discarded()) return std::nullopt;  // reading them says what is wrong
    rules.Apply(&messages);
    if (!rules.refused_by().empty()) return RefusedBy("messages", rules.refused_by());
    chat->messages_json = messages.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  }
  return std::nullopt;
}

}  // namespace choir
