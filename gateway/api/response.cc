#include "gateway/api/response.h"

#include <fmt/format.h>

#include <cmath>
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

// JSON has no infinity: as OpenAI's API shows a token that cannot come.
float Logprob(float value) { return std::isfinite(value) ? value : -9999.0f; }

Json ChatLogprobs(const std::vector<ApiTokenLogprob>& tokens) {
  Json content = Json::array();
  for (const ApiTokenLogprob& t : tokens) {
    Json item = {{"token", t.token}, {"logprob", Logprob(t.logprob)}, {"bytes", BytesOf(t.token)}};
    item["top_logprobs"] = Json::array();
    for (const ApiLogprob& alternative : t.top) {
      item["top_logprobs"].push_back({{"token", alternative.token},
                                      {"logprob", Logprob(alternative.logprob)},
                                      {"bytes", BytesOf(alternative.token)}});
    }
    content.push_back(std::move(item));
  }
  return Json{{"content", std::move(content)}, {"refusal", nullptr}};
}

// Lead bytes followed by as many continuation bytes as they ask for.
bool HasWholeCharacters(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i++]);
    size_t more = 0;
    if (lead >= 0xC2 && lead < 0xE0) more = 1;
    if (lead >= 0xE0 && lead < 0xF0) more = 2;
    if (lead >= 0xF0 && lead < 0xF5) more = 3;
    if ((lead >= 0x80 && more == 0) || text.size() - i < more) return false;
    for (; more > 0; --more, ++i) {
      if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) return false;
    }
  }
  return true;
}

// A part of a character is no text: OpenAI's older form writes "bytes:\xe2\x80", which keeps the
// keys of top_logprobs apart.
std::string TokenName(const std::string& token) {
  if (HasWholeCharacters(token)) return token;
  std::string name = "bytes:";
  for (const char c : token) name += fmt::format("\\x{:02x}", static_cast<uint8_t>(c));
  return name;
}

// The older form: parallel lists; `bytes` is our addition.
Json CompletionLogprobs(const std::vector<ApiTokenLogprob>& tokens) {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()},
              {"bytes", Json::array()}};
  for (const ApiTokenLogprob& t : tokens) {
    out["tokens"].push_back(TokenName(t.token));
    out["token_logprobs"].push_back(Logprob(t.logprob));
    Json top = Json::object();
    for (const ApiLogprob& a : t.top) top.emplace(TokenName(a.token), Logprob(a.logprob));
    out["top_logprobs"].push_back(std::move(top));
    out["text_offset"].push_back(t.text_offset);
    out["bytes"].push_back(BytesOf(t.token));
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

StreamWriter::StreamWriter(const ApiRequest& request, ApiIdentity identity, StreamPosition position)
    : chat_(request.chat),
      include_usage_(request.include_usage),
      want_logprobs_(request.sampling.logprobs.has_value()),
      identity_(std::move(identity)),
      position_(std::move(position)) {
  for (size_t i = 0; i < position_.size(); ++i) {
    role_sent_[static_cast<uint32_t>(i)] = position_[i].begun;
    finished_[static_cast<uint32_t>(i)] = position_[i].finished;
  }
  Json head = {{"id", IdOf(chat_, identity_)},
               {"object", chat_ ? "chat.completion.chunk" : "text_completion"},
               {"created", identity_.created},
               {"model", identity_.model},
               {"system_fingerprint", nullptr}};
  head_ = Dump(head);
  head_.pop_back();  // the closing brace: choices follow
}

// The id of the delta's last event; empty: none is wanted.
std::string StreamWriter::Advance(const ApiDelta& d) {
  if (d.choice >= position_.size()) return "";
  ChoicePosition& choice = position_[d.choice];
  choice.begun = true;
  choice.tokens += static_cast<uint32_t>(d.token_ids.size());
  choice.finished = choice.finished || !d.finish_reason.empty();
  return PositionId(position_);
}

std::string StreamWriter::Event(const std::string& choices, const std::string& usage,
                                const std::string& id) {
  ++events_;
  std::string event = id.empty() ? "" : "id: " + id + "\n";
  event += "data: " + head_ + ",\"choices\":" + choices;
  if (include_usage_) event += ",\"usage\":" + usage;
  return event + "}\n\n";
}

std::string StreamWriter::Delta(const ApiDelta& d) {
  // A router that takes over says again how a choice ended.
  if (!d.finish_reason.empty() && std::exchange(finished_[d.choice], true)) return "";
  const std::string id = Advance(d);
  const bool logprobs = want_logprobs_ && !d.logprobs.empty();
  const bool empty = d.text.empty() && d.finish_reason.empty() && !logprobs;
  // Put together by hand: this is done for each token of each stream.
  std::string out, choice = fmt::format("[{{\"index\":{},", d.choice);
  if (chat_) {
    if (!std::exchange(role_sent_[d.choice], true)) {
      out = Event(choice + R"("delta":{"role":"assistant","content":""},"logprobs":null,)"
                           R"("finish_reason":null}])",
                  "null", "");
    }
    if (empty && d.reasoning.empty()) return out;
    choice += "\"delta\":{";
    if (!d.reasoning.empty()) choice += "\"reasoning_content\":" + Dump(d.reasoning);
    if (!d.reasoning.empty() && !d.text.empty()) choice += ',';
    if (!d.text.empty()) choice += "\"content\":" + Dump(d.text);
    choice += '}';
  } else {
    if (empty) return out;
    choice += "\"text\":" + Dump(d.text);
  }
  choice += ",\"logprobs\":";
  choice +=
      !logprobs ? "null" : Dump(chat_ ? ChatLogprobs(d.logprobs) : CompletionLogprobs(d.logprobs));
  choice += ",\"finish_reason\":" + Dump(Nullable(d.finish_reason)) + "}]";
  return out + Event(choice, "null", id);
}

std::string StreamWriter::Done(const ApiUsage& usage) {
  std::string out;
  if (include_usage_) out = Event("[]", Dump(UsageJson(usage)), "");
  return out + "data: [DONE]\n\n";
}

std::string StreamWriter::Error(const RestError& error) {
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
      choice["text"] = c.text;
      choice["logprobs"] = want_logprobs_ ? CompletionLogprobs(c.logprobs) : Json();
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
