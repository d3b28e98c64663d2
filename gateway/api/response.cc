#include "gateway/api/response.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json BytesOf(const std::string& token) {
  Json bytes = Json::array();
  for (const char c : token) bytes.push_back(static_cast<uint8_t>(c));
  return bytes;
}

Json ChatLogprobs(const std::vector<ApiTokenLogprob>& tokens) {
  Json content = Json::array();
  for (const ApiTokenLogprob& t : tokens) {
    Json item = {{"token", t.token}, {"logprob", t.logprob}, {"bytes", BytesOf(t.token)}};
    item["top_logprobs"] = Json::array();
    for (const ApiLogprob& alternative : t.top) {
      item["top_logprobs"].push_back({{"token", alternative.token},
                                      {"logprob", alternative.logprob},
                                      {"bytes", BytesOf(alternative.token)}});
    }
    content.push_back(std::move(item));
  }
  return Json{{"content", std::move(content)}, {"refusal", nullptr}};
}

// The older form: parallel lists; offsets count from the start of the text.
Json CompletionLogprobs(const std::vector<ApiTokenLogprob>& tokens, uint64_t* offset) {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  for (const ApiTokenLogprob& t : tokens) {
    out["tokens"].push_back(t.token);
    out["token_logprobs"].push_back(t.logprob);
    Json top = Json::object();
    for (const ApiLogprob& alternative : t.top) top[alternative.token] = alternative.logprob;
    out["top_logprobs"].push_back(std::move(top));
    out["text_offset"].push_back(*offset);
    *offset += t.token.size();
  }
  return out;
}

Json UsageJson(const ApiUsage& u) {
  return Json{{"prompt_tokens", u.prompt_tokens},
              {"completion_tokens", u.output_tokens},
              {"total_tokens", uint64_t{u.prompt_tokens} + u.output_tokens},
              {"prompt_tokens_details", {{"cached_tokens", u.cached_tokens}}},
              {"completion_tokens_details", {{"reasoning_tokens", u.reasoning_tokens}}},
              {"prompt_cache_hit_tokens", u.cached_tokens},
              {"prompt_cache_miss_tokens", u.prompt_tokens - u.cached_tokens}};
}

Json Nullable(const std::string& text) { return text.empty() ? Json() : Json(text); }

std::string IdOf(bool chat, const ApiIdentity& identity) {
  return (chat ? "chatcmpl-" : "cmpl-") + identity.request_id;
}

}  // namespace

StreamWriter::StreamWriter(const ApiRequest& request, ApiIdentity identity)
    : chat_(request.chat),
      include_usage_(request.include_usage),
      want_logprobs_(request.sampling.logprobs.has_value()),
      identity_(std::move(identity)) {
  Json head = {{"id", IdOf(chat_, identity_)},
               {"object", chat_ ? "chat.completion.chunk" : "text_completion"},
               {"created", identity_.created},
               {"model", identity_.model},
               {"system_fingerprint", nullptr}};
  head_ = Dump(head);
  head_.pop_back();  // the closing brace: choices follow
}

std::string StreamWriter::Event(const std::string& choices, const std::string& usage) {
  ++events_;
  std::string event = "data: " + head_ + ",\"choices\":" + choices;
  if (include_usage_) event += ",\"usage\":" + usage;
  return event + "}\n\n";
}

std::string StreamWriter::Delta(const ApiDelta& d) {
  Json choice = {{"index", d.choice}};
  std::string out;
  if (chat_) {
    Json delta = Json::object();
    if (!std::exchange(role_sent_[d.choice], true)) {
      Json first = {{"index", d.choice},
                    {"delta", {{"role", "assistant"}, {"content", ""}}},
                    {"logprobs", nullptr},
                    {"finish_reason", nullptr}};
      out = Event("[" + Dump(first) + "]", "null");
    }
    if (!d.reasoning.empty()) delta["reasoning_content"] = d.reasoning;
    if (!d.text.empty()) delta["content"] = d.text;
    if (delta.empty() && d.finish_reason.empty() && (d.logprobs.empty() || !want_logprobs_))
      return out;
    choice["delta"] = std::move(delta);
    choice["logprobs"] = want_logprobs_ && !d.logprobs.empty() ? ChatLogprobs(d.logprobs) : Json();
  } else {
    if (d.text.empty() && d.finish_reason.empty() && (d.logprobs.empty() || !want_logprobs_))
      return out;
    choice["text"] = d.text;
    choice["logprobs"] = want_logprobs_ && !d.logprobs.empty()
                             ? CompletionLogprobs(d.logprobs, &text_offset_[d.choice])
                             : Json();
  }
  choice["finish_reason"] = Nullable(d.finish_reason);
  return out + Event("[" + Dump(choice) + "]", "null");
}

std::string StreamWriter::Done(const ApiUsage& usage) {
  std::string out;
  if (include_usage_) out = Event("[]", Dump(UsageJson(usage)));
  return out + "data: [DONE]\n\n";
}

std::string StreamWriter::Error(const ApiError& error) {
  return "event: error\ndata: " + ErrorBody(error) + "\n\n";
}

ResponseCollector::ResponseCollector(const ApiRequest& request, ApiIdentity identity)
    : chat_(request.chat),
      want_logprobs_(request.sampling.logprobs.has_value()),
      identity_(std::move(identity)) {}

void ResponseCollector::Add(const ApiDelta& d) {
  Choice& choice = choices_[d.choice];
  choice.text += d.text;
  choice.reasoning += d.reasoning;
  choice.logprobs.insert(choice.logprobs.end(), d.logprobs.begin(), d.logprobs.end());
  if (!d.finish_reason.empty()) choice.finish_reason = d.finish_reason;
}

std::string ResponseCollector::Body(const ApiUsage& usage) const {
  Json choices = Json::array();
  for (const auto& [index, c] : choices_) {
    Json choice = {{"index", index}};
    if (chat_) {
      Json message = {{"role", "assistant"}, {"content", c.text}, {"refusal", nullptr}};
      if (!c.reasoning.empty()) message["reasoning_content"] = c.reasoning;
      choice["message"] = std::move(message);
      choice["logprobs"] = want_logprobs_ ? ChatLogprobs(c.logprobs) : Json();
    } else {
      uint64_t offset = 0;
      choice["text"] = c.text;
      choice["logprobs"] = want_logprobs_ ? CompletionLogprobs(c.logprobs, &offset) : Json();
    }
    choice["finish_reason"] = Nullable(c.finish_reason);
    choices.push_back(std::move(choice));
  }
  return Dump(Json{{"id", IdOf(chat_, identity_)},
                   {"object", chat_ ? "chat.completion" : "text_completion"},
                   {"created", identity_.created},
                   {"model", identity_.model},
                   {"system_fingerprint", nullptr},
                   {"choices", std::move(choices)},
                   {"usage", UsageJson(usage)}});
}

namespace {
Json ModelJson(const ApiModel& m) {
  return Json{{"id", m.id},
              {"object", "model"},
              {"created", m.created},
              {"owned_by", "choir"},
              {"max_model_len", m.context_length}};
}
}  // namespace

std::string ModelBody(const ApiModel& model) { return Dump(ModelJson(model)); }

std::string ModelListBody(const std::vector<ApiModel>& models) {
  Json data = Json::array();
  for (const ApiModel& m : models) data.push_back(ModelJson(m));
  return Dump(Json{{"object", "list"}, {"data", std::move(data)}});
}

}  // namespace choir
