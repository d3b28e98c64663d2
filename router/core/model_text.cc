#include "router/core/model_text.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "common/files/json_file.h"
#include "common/files/read_file.h"
#include "router/core/joint_rules.h"

namespace choir {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kJsonDepthMax = 64;
constexpr size_t kShownMax = 80;  // of a bad value in a message

// nlohmann's parser without exceptions; deeper nesting than kJsonDepthMax counts as malformed.
std::optional<ordered_json> ParseJson(const std::string& text) {
  bool too_deep = false;
  auto result = ordered_json::parse(
      text,
      [&](int depth, ordered_json::parse_event_t, ordered_json&) {
        too_deep |= depth > kJsonDepthMax;
        return !too_deep;
      },
      /*allow_exceptions=*/false);
  if (too_deep || result.is_discarded()) return std::nullopt;
  return result;
}

constexpr JsonLimits kConfigLimits = {.bytes_max = 8 << 20};

// eos_token_id is a number, a list, or absent.
Status AddEos(const json& config, const std::string& path, std::set<int32_t>* out) {
  const auto it = config.find("eos_token_id");
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  const json list = it->is_array() ? *it : json::array({*it});
  for (const json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return InvalidArgument("{}: eos_token_id: token ids are needed, not {}; correct it", path,
                             id.dump().substr(0, kShownMax));
    }
    out->insert(id.get<int32_t>());
  }
  return absl::OkStatus();
}

// A number of generation_config.json; absent or null: nullopt.
StatusOr<std::optional<double>> Number(const json& config, const std::string& path, const char* key,
                                       bool whole) {
  const auto it = config.find(key);
  if (it == config.end() || it->is_null()) return std::optional<double>();
  const double value = it->is_number() ? it->get<double>() : std::nan("");
  if (std::isnan(value) || (whole && (value != std::floor(value) || std::abs(value) > INT32_MAX))) {
    return InvalidArgument("{}: {}: a {} is needed, not {}; correct it or take it out", path, key,
                           whole ? "whole number" : "number", it->dump().substr(0, kShownMax));
  }
  return std::optional<double>(value);
}

// Nothing can be replaced there: the words between may be the template's.
ApiError AcrossTexts(const ContentRule& rule) {
  ApiError error = InvalidParam(
      "messages",
      fmt::format("messages: the content rule '{}' {} where the chat template puts "
                  "texts of the request together; change one of them",
                  rule.name, rule.action == ContentAction::kRefuse ? "refuses it" : "matches"));
  error.code = "content_rule";
  return error;
}

// The last thing of a text apart from white space.
bool EndsWith(std::string_view text, std::string_view tag) {
  const size_t end = text.find_last_not_of(" \t\r\n");
  return end != std::string_view::npos && text.substr(0, end + 1).ends_with(tag);
}

}  // namespace

StatusOr<std::unique_ptr<ModelText>> ModelText::Load(const std::string& model_dir,
                                                     uint32_t default_max_tokens) {
  std::unique_ptr<ModelText> text(new ModelText);
  CHOIR_ASSIGN_OR_RETURN(text->tokenizer_, Tokenizer::Load(model_dir));
  text->defaults_.max_tokens = default_max_tokens;
  CHOIR_RETURN_IF_ERROR(text->ReadConfig(model_dir));
  CHOIR_RETURN_IF_ERROR(text->ReadGenerationConfig(model_dir));
  CHOIR_RETURN_IF_ERROR(text->ReadTemplate(model_dir));
  return text;
}

Status ModelText::ReadConfig(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  CHOIR_ASSIGN_OR_RETURN(const json config, ReadJsonObject(path, kConfigLimits));
  const auto number = [&](const char* key, int64_t absent) -> StatusOr<int64_t> {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) return absent;
    if (!it->is_number_unsigned() || *it < 1u || *it > static_cast<uint64_t>(INT32_MAX)) {
      return InvalidArgument("{}: {}: a whole number above 0 is needed, not {}; correct it", path,
                             key, it->dump().substr(0, kShownMax));
    }
    return it->get<int64_t>();
  };
  CHOIR_ASSIGN_OR_RETURN(const int64_t vocab, number("vocab_size", tokenizer_->vocab_size()));
  CHOIR_ASSIGN_OR_RETURN(const int64_t context, number("max_position_embeddings", 0));
  if (tokenizer_->vocab_size() > vocab) {
    return InvalidArgument(
        "{}/tokenizer.json: vocabulary: has ids up to {}, but vocab_size in config.json is {}; "
        "both "
        "must be of one model",
        model_dir, tokenizer_->vocab_size() - 1, vocab);
  }
  vocab_size_ = static_cast<int32_t>(vocab);
  context_length_ = static_cast<uint32_t>(context);
  std::set<int32_t> eos;
  CHOIR_RETURN_IF_ERROR(AddEos(config, path, &eos));
  // The tokenizer's own is the last resort; generation_config.json, read next, has the last word.
  if (const auto id = tokenizer_->eos_id(); id && eos.empty()) eos.insert(*id);
  defaults_.eos_token_ids.assign(eos.begin(), eos.end());
  return absl::OkStatus();
}

Status ModelText::ReadGenerationConfig(const std::string& model_dir) {
  const std::string path = model_dir + "/generation_config.json";
  CHOIR_ASSIGN_OR_RETURN(const json config, ReadJsonObjectIfThere(path, kConfigLimits));
  if (config.is_null()) return absl::OkStatus();
  std::set<int32_t> eos;
  CHOIR_RETURN_IF_ERROR(AddEos(config, path, &eos));
  if (!eos.empty()) defaults_.eos_token_ids.assign(eos.begin(), eos.end());
  SamplingInput given;
  CHOIR_ASSIGN_OR_RETURN(given.temperature, Number(config, path, "temperature", false));
  CHOIR_ASSIGN_OR_RETURN(given.top_p, Number(config, path, "top_p", false));
  CHOIR_ASSIGN_OR_RETURN(const std::optional<double> top_k, Number(config, path, "top_k", true));
  if (top_k) given.top_k = *top_k < 1 ? -1 : static_cast<int32_t>(*top_k);
  RequestInput check;
  check.content = PromptIds{{0}};
  check.sampling = given;
  if (const auto error = ValidateRequest(check, vocab_size_)) {
    return InvalidArgument("{}: {}; correct it or take it out", path, error->message);
  }
  defaults_.temperature = given.temperature.value_or(1);
  defaults_.top_p = given.top_p.value_or(1);
  defaults_.top_k = given.top_k.value_or(-1);
  return absl::OkStatus();
}

Status ModelText::ReadTemplate(const std::string& model_dir) {
  auto loaded = ChatTemplate::Load(model_dir);
  if (absl::IsNotFound(loaded.status())) return absl::OkStatus();
  if (!loaded.ok()) return loaded.status();
  template_ = *std::move(loaded);
  splits_reasoning_ = tokenizer_->TokenId(tags_.open).has_value();
  for (const char* file : {"/chat_template.jinja", "/tokenizer_config.json"}) {
    const auto text = ReadTextFile(model_dir + file, 64 << 20);
    splits_reasoning_ |= text.ok() && text->find(tags_.open) != std::string::npos;
  }
  return absl::OkStatus();
}

std::variant<PreparedRequest, ApiError> ModelText::Prepare(const RequestInput& input,
                                                           const PrepareLimits& limits,
                                                           const Clock& clock,
                                                           std::vector<RuleHits>* hits) const {
  PreparedRequest prepared;
  prepared.text.tokenizer = tokenizer_.get();
  prepared.text.tags = tags_;
  prepared.text.stops = input.sampling.stop;
  auto tokens = Tokens(input, clock, &prepared.text, hits);
  if (auto* error = std::get_if<ApiError>(&tokens)) return std::move(*error);
  prepared.prompt = std::move(std::get<std::vector<int32_t>>(tokens));
  const char* field = std::holds_alternative<ChatInput>(input.content) ? "messages" : "prompt";
  if (prepared.prompt.empty()) {
    return InvalidParam(field, "the prompt gives no token, but at least one is needed");
  }
  for (const int32_t id : prepared.prompt) {
    if (id >= vocab_size_) {
      return InvalidParam(field, fmt::format("the prompt has token {}, but the model has {} only",
                                             id, vocab_size_));
    }
  }
  uint32_t context = context_length_;
  if (limits.context_length != 0) {
    context = context == 0 ? limits.context_length : std::min(context, limits.context_length);
  }
  const size_t answer_min =
      input.sampling.max_tokens == 0u ? 0 : 1;  // 0: only an echo is asked for
  if (context != 0 && prepared.prompt.size() + answer_min > context) {
    ApiError error = InvalidParam(
        field, fmt::format("the prompt has {} tokens; with one of answer that is more than the "
                           "context length of {} tokens",
                           prepared.prompt.size(), context));
    error.code = "context_length_exceeded";
    return error;
  }
  if (input.echo) {
    if (auto error = MakeEcho(input, &prepared)) return *std::move(error);
  }
  prepared.sampling = CompleteSampling(input.sampling, defaults_, limits.seed);
  if (context != 0) {
    const auto room = context - static_cast<uint32_t>(prepared.prompt.size());
    prepared.sampling.max_tokens = std::min(prepared.sampling.max_tokens, room);
  }
  prepared.num_choices = input.sampling.n.value_or(1);
  if (limits.prefix_block_tokens != 0) {
    prepared.prefix = std::make_shared<const PromptPrefix>(
        MakePromptPrefix(prepared.prompt, limits.cache_salt, limits.prefix_block_tokens));
  }
  return prepared;
}

std::optional<ApiError> ModelText::MakeEcho(const RequestInput& input,
                                            PreparedRequest* prepared) const {
  if (const auto* prompt = std::get_if<PromptText>(&input.content)) {
    prepared->echo = prompt->text;
  } else {
    auto text = tokenizer_->Decode(prepared->prompt, /*skip_special=*/false);
    if (!text.ok()) return InvalidParam("token_ids", MessageOf(text.status()));
    prepared->echo = *std::move(text);
  }
  const size_t bytes = prepared->echo.size() * input.sampling.n.value_or(1);
  if (bytes <= kEchoBytesMax) return std::nullopt;
  return InvalidParam("echo",
                      fmt::format("echo would repeat {} bytes of prompt in all choices, at most {} "
                                  "are allowed",
                                  bytes, kEchoBytesMax));
}

std::variant<std::vector<int32_t>, ApiError> ModelText::Tokens(const RequestInput& input,
                                                               const Clock& clock,
                                                               ChoiceTextOptions* text,
                                                               std::vector<RuleHits>* hits) const {
  if (const auto* ids = std::get_if<PromptIds>(&input.content)) return ids->ids;
  if (const auto* chat = std::get_if<ChatInput>(&input.content)) {
    auto rendered = RenderChat(*chat, clock, input.input_rules.get(), hits);
    if (auto* error = std::get_if<ApiError>(&rendered)) return std::move(*error);
    const auto& prompt = std::get<std::string>(rendered);
    text->split_reasoning = splits_reasoning_;
    text->starts_inside_reasoning = splits_reasoning_ && EndsWith(prompt, tags_.open);
    auto ids = tokenizer_->Encode(prompt, /*add_special=*/false);
    if (!ids.ok()) return InvalidParam("messages", MessageOf(ids.status()));
    return *std::move(ids);
  }
  const auto& prompt = std::get<PromptText>(input.content);
  auto ids = tokenizer_->Encode(prompt.text, prompt.add_special);
  if (!ids.ok()) return InvalidParam("prompt", MessageOf(ids.status()));
  return *std::move(ids);
}

std::variant<std::string, ApiError> ModelText::RenderChat(const ChatInput& chat, const Clock& clock,
                                                          const ContentRules* rules,
                                                          std::vector<RuleHits>* hits) const {
  if (!template_) {
    return InvalidParam("messages",
                        "the model has no chat template: use completions with a prompt");
  }
  ordered_json request = {{"add_generation_prompt", true}};
  auto messages = ParseJson(chat.messages_json);
  const auto is_message = [](const ordered_json& m) {
    return m.is_object() && m.contains("role") && m["role"].is_string();
  };
  if (!messages || !messages->is_array() || messages->empty() ||
      !std::all_of(messages->begin(), messages->end(), is_message)) {
    return InvalidParam("messages", "messages must be a list of at least one object with a role");
  }
  request["messages"] = *std::move(messages);
  if (!chat.tools_json.empty()) {
    auto tools = ParseJson(chat.tools_json);
    if (!tools || !tools->is_array()) return InvalidParam("tools", "tools must be a list");
    if (!tools->empty()) request["tools"] = *std::move(tools);
  }
  if (!chat.template_kwargs_json.empty()) {
    auto kwargs = ParseJson(chat.template_kwargs_json);
    if (!kwargs || !kwargs->is_object()) {
      return InvalidParam("chat_template_kwargs", "chat_template_kwargs must be an object");
    }
    for (const char* name : {"messages", "tools", "add_generation_prompt"}) {
      if (!kwargs->contains(name)) continue;
      return InvalidParam("chat_template_kwargs",
                          fmt::format("chat_template_kwargs must not hold '{}'", name));
    }
    request["kwargs"] = *std::move(kwargs);
  }
  template_->Adapt(&request);
  const auto render = [this, &clock](const ordered_json& asked) {
    return template_->Render(asked, clock, {});
  };
  auto rendered = render(request);
  if (!rendered.ok()) {
    return InvalidParam("messages", "the chat template: " + MessageOf(rendered.status()));
  }
  if (rules == nullptr) return *std::move(rendered);
  if (const ContentRule* rule = FindAcrossTexts(
          *rules, *rendered, tokenizer_->BetweenMarks(*rendered), request, render)) {
    AddHits(rule->name, 1, hits);
    return AcrossTexts(*rule);
  }
  return *std::move(rendered);
}

}  // namespace choir
