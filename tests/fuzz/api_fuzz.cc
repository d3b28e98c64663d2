// Bodies of the REST API: strict JSON, then requests. What is accepted is well-formed for whoever
// reads it next; what is not has an error of four parts.
#include "common/base/check.h"
#include "gateway/api/request.h"
#include "gateway/api/strict_json.h"
#include "tests/fuzz/json_mutator.h"

namespace choir {
namespace {

bool Refused(const RestError& error) {
  if (error.http == 0) return false;
  CHOIR_CHECK(error.http == 400 && !error.message.empty() && !error.type.empty());
  CHOIR_CHECK(Json(error.message).dump().size() > 2);  // is UTF-8: dump() throws where it is not
  return true;
}

}  // namespace
}  // namespace choir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir;  // NOLINT
  const std::string body(reinterpret_cast<const char*>(data), size);
  Json value;
  if (!Refused(ParseStrictJson(body, kJsonDepthMax, &value))) {
    Json again;
    CHOIR_CHECK(!Refused(ParseStrictJson(value.dump(), kJsonDepthMax, &again)));
    CHOIR_CHECK(again == value);
  }
  ApiRequest chat;
  if (!Refused(ParseChatRequest(body, &chat))) {
    Json messages;
    CHOIR_CHECK(!Refused(ParseStrictJson(chat.messages_json, kJsonDepthMax, &messages)));
    CHOIR_CHECK(messages.is_array() && !messages.empty());
  }
  ApiRequest completion;
  if (!Refused(ParseCompletionRequest(body, &completion))) {
    CHOIR_CHECK(!completion.prompts.empty() && completion.prompts.size() <= kRequestChoicesMax);
  }
  return 0;
}
