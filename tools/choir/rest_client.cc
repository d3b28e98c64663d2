#include "tools/choir/rest_client.h"

#include <curl/curl.h>

#include "tools/load/sse_reader.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

Status ErrorOf(long code, const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  std::string message = text.substr(0, 200);
  if (json.is_object() && json.contains("error") && json["error"].contains("message"))
    message = json["error"]["message"].get<std::string>();
  return Internal("the server answered {}: {}", code, message);
}

size_t OnData(char* data, size_t, size_t n, void* user) {
  const auto& f = *static_cast<const std::function<bool(const char*, size_t)>*>(user);
  return f(data, n) ? n : 0;
}

// Lets a cancel come through while nothing arrives.
int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto& f = *static_cast<const std::function<bool(const char*, size_t)>*>(user);
  return f(nullptr, 0) ? 0 : 1;
}

}  // namespace

Status RestClient::Perform(const std::string& path, const std::string* body,
                           const std::function<bool(const char*, size_t)>& data, long* code) const {
  CURL* curl = curl_easy_init();
  if (curl == nullptr) return Internal("libcurl cannot start");
  curl_slist* headers = curl_slist_append(nullptr, ("Authorization: Bearer " + api_key_).c_str());
  headers = curl_slist_append(headers, "Content-Type: application/json");
  headers = curl_slist_append(headers, "Expect:");
  if (!class_.empty()) {
    headers = curl_slist_append(headers, ("x-choir-class: " + class_).c_str());
  }
  const std::string url = url_ + path;
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  if (!ca_.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, ca_.c_str());
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, OnData);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &data);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &data);
  if (body != nullptr) {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body->size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->c_str());
  }
  const CURLcode result = curl_easy_perform(curl);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, code);
  curl_slist_free_all(headers);
  curl_easy_cleanup(curl);
  if (result == CURLE_WRITE_ERROR || result == CURLE_ABORTED_BY_CALLBACK)
    return Cancelled("cancelled");
  if (result != CURLE_OK) return Unavailable("{}: {}", url, curl_easy_strerror(result));
  return absl::OkStatus();
}

StatusOr<Json> RestClient::Get(const std::string& path) const { return Ask(path, nullptr); }

StatusOr<Json> RestClient::Post(const std::string& path, const std::string& body) const {
  return Ask(path, &body);
}

StatusOr<Json> RestClient::Ask(const std::string& path, const std::string* body) const {
  std::string text;
  long code = 0;
  CHOIR_RETURN_IF_ERROR(Perform(
      path, body, [&](const char* d, size_t n) { return text.append(d, n), true; }, &code));
  if (code != 200) return ErrorOf(code, text);
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return Internal("{}{}: the answer is not JSON", url_, path);
  return json;
}

Status RestClient::Stream(const std::string& path, const std::string& body,
                          const std::function<bool(const Json&)>& event) const {
  SseReader events;
  bool done = false;
  Status error;
  long code = 0;
  const auto on_event = [&](std::string_view block, std::string_view data) {
    if (data == "[DONE]") return done = true;
    const Json json = Json::parse(data, nullptr, false);
    if (block.starts_with("event: error")) {
      error = ErrorOf(code, std::string(data));
      return true;
    }
    return !json.is_object() || event(json);
  };
  const auto on_data = [&](const char* d, size_t n) {
    return n == 0 ? event(Json::object()) : events.Push({d, n}, on_event);
  };
  CHOIR_RETURN_IF_ERROR(Perform(path, &body, on_data, &code));
  CHOIR_RETURN_IF_ERROR(error);
  if (code != 200) return ErrorOf(code, events.rest());
  if (!done) return Unavailable("the stream ended without [DONE]");
  return absl::OkStatus();
}

StatusOr<std::string> FirstModel(const RestClient& client) {
  CHOIR_ASSIGN_OR_RETURN(const Json models, client.Get("/v1/models"));
  const Json data = models.value("data", Json::array());
  if (data.empty()) return NotFound("no model is served");
  return data[0].value("id", "");
}

}  // namespace choir
