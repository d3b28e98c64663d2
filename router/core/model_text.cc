#include "router/core/model_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "common/config/file_watch.h"

namespace choir {
namespace {

using nlohmann::ordered_json;

constexpr int kJsonDepthMax = 64;

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

StatusOr<ordered_json> ReadJsonFile(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  auto json = ParseJson(text);
  if (!json || !json->is_object()) return InvalidArgument("{}: not a JSON object", path);
  return *std::move(json);
}

// eos_token_id is a number, a list, or absent.
Status AddEos(const ordered_json& config, const std::string& path, std::set<int32_t>* out) {
  const auto it = config.find("eos_token_id");
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  const ordered_json list = it->is_array() ? *it : ordered_json::array({*it});
  for (const auto& id : list) {
    if (!id.is_number_integer() || id < 0) {
      return InvalidArgument("{}: eos_token_id: token ids are needed, not {}", path, id.dump());
    }
    out->insert(id.get<int32_t>());
  }
  return absl::OkStatus();
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
  CHOIR_ASSIGN_OR_RETURN(const ordered_json config, ReadJsonFile(path));
  const auto number = [&](const char* key, int64_t absent) -> StatusOr<int64_t> {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) return absent;
    if (!it->is_number_integer() || *it < 1 || *it > INT32_MAX) {
      return InvalidArgument("{}: {}: a positive number is needed, not {}", path, key, it->dump());
    }
    return it->get<int64_t>();
  };
  CHOIR_ASSIGN_OR_RETURN(const int64_t vocab, number("vocab_size", tokenizer_->vocab_size()));
  CHOIR_ASSIGN_OR_RETURN(const int64_t context, number("max_position_embeddings", 0));
  vocab_size_ = static_cast<int32_t>(vocab);
  context_length_ = static_cast<uint32_t>(context);
  std::set<int32_t> eos;
  CHOIR_RETURN_IF_ERROR(AddEos(config, path, &eos));
  if (const auto id = tokenizer_->eos_id()) eos.insert(*id);
  defaults_.eos_token_ids.assign(eos.begin(), eos.end());
  return absl::OkStatus();
}

Status ModelText::ReadGenerationConfig(const std::string& model_dir) {
  const std::string path = model_dir + "/generation_config.json";
  StatusOr<ordered_json> config = ReadJsonFile(path);
  if (absl::IsNotFound(config.status())) return absl::OkStatus();
  if (!config.ok()) return config.status();
  std::set<int32_t> eos(defaults_.eos_token_ids.begin(), defaults_.eos_token_ids.end());
  CHOIR_RETURN_IF_ERROR(AddEos(*config, path, &eos));
  defaults_.eos_token_ids.assign(eos.begin(), eos.end());
  SamplingInput given;
  const auto number = [&](const char* key) -> std::optional<double> {
    const auto it = config->find(key);
    if (it == config->end() || !it->is_number()) return std::nullopt;
    return it->get<double>();
  };
  given.temperature = number("temperature");
  given.top_p = number("top_p");
  if (const auto k = number("top_k")) given.top_k = *k < 1 ? -1 : static_cast<int32_t>(*k);
  RequestInput check;
  check.content = PromptIds{{0}};
  check.sampling = given;
  if (const auto error = ValidateRequest(check, vocab_size_)) {
    return InvalidArgument("{}: {}", path, error->message);
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
    const auto text = ReadSmallFile(model_dir + file, 64 << 20);
    splits_reasoning_ |= text.ok() && text->find(tags_.open) != std::string::npos;
  }
  return absl::OkStatus();
}

std::variant<PreparedRequest, ApiError> ModelText::Prepare(const RequestInput& input,
                                                           const PrepareLimits& limits,
                                                           const Clock& clock) const {
  PreparedRequest prepared;
  prepared.text.tokenizer = tokenizer_.get();
  prepared.text.tags = tags_;
  prepared.text.stops = input.sampling.stop;
  auto tokens = Tokens(input, clock, &prepared.text);
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
  if (context != 0 && prepared.prompt.size() + 1 > context) {
    ApiError error = InvalidParam(
        field, fmt::format("the prompt has {} tokens; with one of answer that is more than the "
                           "context length of {} tokens",
                           prepared.prompt.size(), context));
    error.code = "context_length_exceeded";
    return error;
  }
  prepared.sampling = CompleteSampling(input.sampling, defaults_, limits.seed);
  if (context != 0) {
    const auto room = context - static_cast<uint32_t>(prepared.prompt.size());
    prepared.sampling.max_tokens = std::min(prepared.sampling.max_tokens, room);
  }
  prepared.num_choices = input.sampling.n.value_or(1);
  return prepared;
}

std::variant<std::vector<int32_t>, ApiError> ModelText::Tokens(const RequestInput& input,
                                                               const Clock& clock,
                                                               ChoiceTextOptions* text) const {
  if (const auto* ids = std::get_if<PromptIds>(&input.content)) return ids->ids;
  if (const auto* chat = std::get_if<ChatInput>(&input.content)) {
    return ChatTokens(*chat, clock, text);
  }
  const auto& prompt = std::get<PromptText>(input.content);
  auto ids = tokenizer_->Encode(prompt.text, prompt.add_special);
  if (!ids.ok()) return InvalidParam("prompt", MessageOf(ids.status()));
  return *std::move(ids);
}

std::variant<std::vector<int32_t>, ApiError> ModelText::ChatTokens(const ChatInput& chat,
                                                                   const Clock& clock,
                                                                   ChoiceTextOptions* text) const {
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
    request["kwargs"] = *std::move(kwargs);
  }
  auto rendered = template_->Render(request, clock, {});
  if (!rendered.ok()) {
    return InvalidParam("messages", "the chat template: " + MessageOf(rendered.status()));
  }
  text->split_reasoning = splits_reasoning_;
  text->starts_inside_reasoning = splits_reasoning_ && EndsWith(*rendered, tags_.open);
  auto ids = tokenizer_->Encode(*rendered, /*add_special=*/false);
  if (!ids.ok()) return InvalidParam("messages", MessageOf(ids.status()));
  return *std::move(ids);
}

}  // namespace choir
