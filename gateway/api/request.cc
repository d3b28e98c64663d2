#include "gateway/api/request.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <string_view>
#include <utility>

#include "gateway/api/field_reader.h"

namespace choir {
namespace {

constexpr int64_t kIdMax = std::numeric_limits<int32_t>::max();

void ReadLogitBias(FieldReader& fields, ApiSampling* s) {
  const Json* bias = fields.Get("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) return fields.Fail("logit_bias", "must be an object of token id to bias");
  if (bias->size() > 1024) return fields.Fail("logit_bias", "must have at most 1024 entries");
  for (const auto& [key, value] : bias->items()) {
    int32_t id = -1;
    const auto [rest, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    // Written in one way only: "05" would be a second name of 5.
    if (error != std::errc() || rest != key.data() + key.size() || std::to_string(id) != key ||
        id < 0) {
      return fields.Fail("logit_bias", fmt::format("the key '{}' is not a token id", key));
    }
    if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100)) {
      return fields.Fail("logit_bias",
                         fmt::format("the bias of token {} must be a number in -100..100", id));
    }
    s->logit_bias[id] = value.get<double>();
  }
}

std::vector<int32_t> ReadIds(FieldReader& fields, const std::string& name, const Json& list,
                             size_t count_max) {
  std::vector<int32_t> ids;
  if (!list.is_array() || list.size() > count_max) {
    fields.Fail(name, fmt::format("must be a list of at most {} token ids", count_max));
    return ids;
  }
  ids.reserve(list.size());
  for (const Json& item : list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > static_cast<uint64_t>(kIdMax)) {
      fields.Fail(name, fmt::format("must hold token ids: integers in 0..{}", kIdMax));
      return ids;
    }
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

template <typename T, typename F>
std::optional<T> As(std::optional<F> value) {
  return value ? std::optional<T>(static_cast<T>(*value)) : std::nullopt;
}

void ReadSampling(FieldReader& fields, bool echo, ApiSampling* s) {
  s->max_tokens = As<uint32_t>(fields.Int("max_tokens", echo ? 0 : 1, kIdMax));
  s->temperature = fields.Number("temperature", 0, 2);
  s->top_p = fields.Number("top_p", 0, 1, /*min_open=*/true);
  s->min_p = fields.Number("min_p", 0, 1);
  s->top_k = As<int32_t>(fields.Int("top_k", -1, kIdMax));
  if (s->top_k && *s->top_k == 0)
    fields.Fail("top_k", "must be -1 (off) or an integer in 1..2147483647");
  s->n = As<uint32_t>(fields.Int("n", 1, 128));
  s->seed =
      fields.Int("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  s->presence_penalty = fields.Number("presence_penalty", -2, 2);
  s->frequency_penalty = fields.Number("frequency_penalty", -2, 2);
  s->ignore_eos = fields.Bool("ignore_eos");
  s->stop = fields.Strings("stop", 16);
  for (const std::string& stop : s->stop) {
    if (stop.empty()) fields.Fail("stop", "must not hold an empty string");
  }
  if (const Json* ids = fields.Get("stop_token_ids"))
    s->stop_token_ids = ReadIds(fields, "stop_token_ids", *ids, 128);
  ReadLogitBias(fields, s);
}

// Fields that both routes share.
void ReadCommon(FieldReader& fields, RestError* error, ApiRequest* r) {
  if (const auto model = fields.String("model", 512)) r->model = *model;
  if (r->model.empty()) fields.Fail("model", "is required");
  if (!r->chat) r->echo = fields.Bool("echo").value_or(false);
  ReadSampling(fields, r->echo, &r->sampling);
  r->stream = fields.Bool("stream").value_or(false);
  if (const Json* options = fields.Get("stream_options")) {
    if (!options->is_object()) {
      fields.Fail("stream_options", "must be an object");
    } else if (!r->stream) {
      fields.Fail("stream_options", "is only allowed with stream: true");
    } else {
      FieldReader inner(*options, "stream_options", error);
      r->include_usage = inner.Bool("include_usage").value_or(false);
      inner.Finish();
    }
  }
  r->session = fields.String("user").value_or("");
  // Without effect here, but of their type.
  fields.String("service_tier");
  fields.Bool("store");
  fields.Bool("parallel_tool_calls");
  if (const Json* metadata = fields.Get("metadata"); metadata != nullptr && !metadata->is_object())
    fields.Fail("metadata", "must be an object");
}

bool IsRole(const std::string& role) {
  return role == "system" || role == "user" || role == "assistant" || role == "tool" ||
         role == "developer";
}

void CheckContent(FieldReader& fields, const Json& content, RestError* error) {
  if (content.is_string()) return;
  if (!content.is_array() || content.empty())
    return fields.Fail("content", "must be a string or a list of text parts");
  for (size_t i = 0; i < content.size() && error->ok(); ++i) {
    const std::string name = fmt::format("content[{}]", i);
    if (!content[i].is_object()) return fields.Fail(name, "must be an object");
    FieldReader part(content[i], fields.Path(name), error);
    if (part.String("type") != "text") {
      part.Fail("type", R"(only parts of the form {"type":"text","text":"..."} are supported)");
    }
    if (part.Require("text") != nullptr) part.String("text");
    part.Finish();
  }
}

// Calls of an earlier answer, as the SDKs send them back.
void CheckToolCalls(FieldReader& fields, const Json& calls, RestError* error) {
  if (!calls.is_array()) return fields.Fail("tool_calls", "must be a list");
  for (size_t i = 0; i < calls.size() && error->ok(); ++i) {
    const std::string name = fmt::format("tool_calls[{}]", i);
    if (!calls[i].is_object()) return fields.Fail(name, "must be an object");
    FieldReader call(calls[i], fields.Path(name), error);
    call.String("id");
    call.Int("index", 0, 1 << 20);
    if (call.String("type").value_or("function") != "function")
      call.Fail("type", "must be function");
    const Json* function = call.Require("function");
    if (function != nullptr && !function->is_object()) {
      call.Fail("function", "must be an object");
    } else if (function != nullptr) {
      FieldReader inner(*function, call.Path("function"), error);
      inner.Require("name");
      inner.String("name");
      inner.Require("arguments");
      inner.String("arguments");
      inner.Finish();
    }
    call.Finish();
  }
}

void CheckMessage(const Json& message, const std::string& path, RestError* error) {
  if (!message.is_object()) {
    if (error->ok()) *error = InvalidValue(path, path + ": must be an object");
    return;
  }
  FieldReader fields(message, path, error);
  const std::string role = fields.String("role").value_or("");
  if (!IsRole(role)) fields.Fail("role", "must be one of system, developer, user, assistant, tool");
  if (const Json* calls = fields.Get("tool_calls")) CheckToolCalls(fields, *calls, error);
  if (const Json* content = fields.Get("content")) {
    CheckContent(fields, *content, error);
  } else if (role != "assistant") {
    fields.Fail("content", "is required");
  }
  // What an SDK sends back of an earlier answer.
  fields.String("name");
  fields.String("tool_call_id");
  fields.String("reasoning_content");
  for (const char* ignored : {"refusal", "annotations"}) fields.Allow(ignored);
  fields.Refuse("audio");
  fields.Refuse("function_call");
  fields.Finish();
}

void ReadMessages(FieldReader& fields, RestError* error, ApiRequest* r) {
  const Json* messages = fields.Require("messages");
  if (messages == nullptr) return;
  if (!messages->is_array() || messages->empty())
    return fields.Fail("messages", "must be a list with at least one message");
  for (size_t i = 0; i < messages->size() && error->ok(); ++i) {
    CheckMessage((*messages)[i], fmt::format("messages[{}]", i), error);
  }
  r->messages_json = messages->dump();
}

// DeepSeek's and the field's switches, as template arguments.
void ReadTemplateArguments(FieldReader& fields, RestError* error, ApiRequest* r) {
  Json kwargs = Json::object();
  if (const Json* given = fields.Get("chat_template_kwargs")) {
    if (!given->is_object()) return fields.Fail("chat_template_kwargs", "must be an object");
    kwargs = *given;
  }
  if (const auto effort = fields.String("reasoning_effort")) {
    static constexpr const char* kEfforts[] = {"none", "minimal", "low",  "medium",
                                               "high", "max",     "xhigh"};
    bool known = false;
    for (const char* e : kEfforts) known |= *effort == e;
    if (!known)
      return fields.Fail("reasoning_effort",
                         "must be one of none, minimal, low, medium, high, xhigh, max");
    kwargs["reasoning_effort"] = *effort;
    if (*effort == "none") {  // for templates that have a switch and no levels
      for (const char* name : {"thinking", "enable_thinking"}) {
        if (!kwargs.contains(name)) kwargs[name] = false;
      }
    }
  }
  if (const Json* thinking = fields.Get("thinking")) {
    if (!thinking->is_object())
      return fields.Fail("thinking", R"(must be {"type":"enabled"} or {"type":"disabled"})");
    FieldReader inner(*thinking, "thinking", error);
    const std::string type = inner.String("type").value_or("");
    if (type != "enabled" && type != "disabled") inner.Fail("type", "must be enabled or disabled");
    inner.Finish();
    for (const char* name : {"thinking", "enable_thinking"}) kwargs[name] = type == "enabled";
  }
  if (!kwargs.empty()) r->template_kwargs_json = kwargs.dump();
}

// A string, a list of strings, a list of token ids, or a list of such lists; a batch may mix texts
// and ids.
void ReadPrompts(FieldReader& fields, ApiRequest* r) {
  const Json* prompt = fields.Require("prompt");
  if (prompt == nullptr) return;
  const bool batch = prompt->is_array() && !prompt->empty() && !prompt->front().is_number();
  const size_t count = batch ? prompt->size() : 1;
  if (count * r->sampling.n.value_or(1) > kRequestChoicesMax) {
    return fields.Fail("prompt",
                       fmt::format("prompts times n must be at most {}", kRequestChoicesMax));
  }
  for (size_t i = 0; i < count; ++i) {
    const Json& one = batch ? (*prompt)[i] : *prompt;
    ApiPrompt& to = r->prompts.emplace_back();
    to.is_text = one.is_string();
    if (to.is_text) {
      to.text = one.get<std::string>();
    } else if (one.is_array() && !one.empty() && one.front().is_number()) {
      to.ids = ReadIds(fields, "prompt", one, size_t{1} << 24);
    } else {
      return fields.Fail("prompt", "must be a string, a list of token ids, or a list of those");
    }
  }
}

// Depths, duplicates and the like are the body's fault; here begin the parameters.
RestError ParseBody(const std::string& body, Json* json) {
  RestError error = ParseStrictJson(body, kJsonDepthMax, json);
  if (error.ok() && !json->is_object()) error = InvalidValue("", "the body must be a JSON object");
  error.malformed = !error.ok();
  return error;
}

}  // namespace

RestError ParseChatRequest(const std::string& body, ApiRequest* r) {
  Json json;
  RestError error = ParseBody(body, &json);
  if (!error.ok()) return error;
  r->chat = true;
  FieldReader fields(json, "", &error);
  ReadCommon(fields, &error, r);
  ReadMessages(fields, &error, r);
  ReadTemplateArguments(fields, &error, r);
  if (const auto completion = fields.Int("max_completion_tokens", 1, kIdMax)) {
    if (r->sampling.max_tokens && *r->sampling.max_tokens != static_cast<uint32_t>(*completion)) {
      fields.Fail("max_completion_tokens", "differs from max_tokens; give one of them");
    }
    r->sampling.max_tokens = static_cast<uint32_t>(*completion);
  }
  const bool logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Int("top_logprobs", 0, 20);
  if (top && !logprobs) fields.Fail("top_logprobs", "is only allowed with logprobs: true");
  if (logprobs) r->sampling.logprobs = static_cast<uint32_t>(top.value_or(0));
  fields.Refuse("tools", Json::array());
  fields.Refuse("tool_choice", "none");
  fields.Refuse("functions");
  fields.Refuse("function_call");
  fields.Refuse("response_format", Json{{"type", "text"}});
  fields.Refuse("prediction");
  fields.Refuse("audio");
  fields.Finish();
  return error;
}

RestError ParseCompletionRequest(const std::string& body, ApiRequest* r) {
  Json json;
  RestError error = ParseBody(body, &json);
  if (!error.ok()) return error;
  r->chat = false;
  FieldReader fields(json, "", &error);
  ReadCommon(fields, &error, r);
  ReadPrompts(fields, r);
  if (const auto logprobs = fields.Int("logprobs", 0, 20))
    r->sampling.logprobs = static_cast<uint32_t>(*logprobs);
  if (r->echo && r->sampling.logprobs) {
    fields.Fail("echo", "is not supported together with logprobs: a prompt's tokens have none");
  }
  fields.Refuse("suffix", "");
  fields.Refuse("best_of", 1);
  fields.Refuse("response_format", Json{{"type", "text"}});
  fields.Finish();
  return error;
}

RestError ParseAnyRequest(const std::string& body, ApiRequest* r) {
  Json json;
  RestError error = ParseBody(body, &json);
  if (!error.ok()) return error;
  return json.contains("messages") ? ParseChatRequest(body, r) : ParseCompletionRequest(body, r);
}

void NameCompletionFields(RestError* error) {
  constexpr std::string_view kRouters = "token_ids", kClients = "prompt";
  for (std::string* text : {&error->param, &error->message}) {
    if (!text->starts_with(kRouters)) continue;
    text->replace(0, kRouters.size(), kClients);
  }
}

}  // namespace choir
