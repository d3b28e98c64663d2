#include "gateway/api/response.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

std::vector<Json> Events(const std::string& sse) {
  std::vector<Json> out;
  size_t at = 0;
  while (at < sse.size()) {
    const size_t end = sse.find("\n\n", at);
    const std::string event = sse.substr(at, end - at);
    if (event.starts_with("data: {")) out.push_back(Json::parse(event.substr(6)));
    at = end + 2;
  }
  return out;
}

ApiRequest ChatStream(bool usage) {
  ApiRequest r;
  r.chat = r.stream = true;
  r.include_usage = usage;
  return r;
}

TEST(StreamWriterTest, ChatBeginsWithTheRoleAndEndsWithDone) {
  StreamWriter w(ChatStream(false), {"id1", "m", 7});
  const auto events = Events(w.Delta({.choice = 0,
                                      .text = "Hi",
                                      .reasoning = "",
                                      .token_ids = {},
                                      .logprobs = {},
                                      .finish_reason = ""}));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[1]["choices"][0]["delta"]["content"], "Hi");
  EXPECT_EQ(events[1]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[1]["id"], "chatcmpl-id1");
  EXPECT_FALSE(events[1].contains("usage"));
  EXPECT_EQ(w.Done({}), "data: [DONE]\n\n");
}

TEST(StreamWriterTest, EventsSayWhereTheClientIsBehindThem) {
  StreamWriter w(ChatStream(false), {"id1", "m", 7}, StreamPosition(2));
  ApiDelta d;
  d.text = "Hi";
  d.token_ids = {1, 2, 3};
  const std::string first = w.Delta(d);
  EXPECT_EQ(first.find("id: "), first.find("id: 3.\ndata: ")) << first;  // not of the role
  d = {.choice = 1, .text = "x", .token_ids = {4}, .finish_reason = "stop"};
  EXPECT_NE(w.Delta(d).find("id: 3.1e\ndata: "), std::string::npos);
  d = {.choice = 0, .token_ids = {5}};  // a part of a character
  EXPECT_EQ(w.Delta(d), "");
  d = {.choice = 0, .text = "y", .token_ids = {6}};
  EXPECT_EQ(w.Delta(d).find("id: 5.1e\ndata: "), 0u);
  EXPECT_EQ(w.Done({}), "data: [DONE]\n\n");
}

TEST(StreamWriterTest, BehindAPlaceItSaysNothingThatTheClientHas) {
  StreamWriter w(
      ChatStream(false), {"id1", "m", 7},
      {{.begun = true, .tokens = 3}, {.begun = true, .tokens = 1, .finished = true}, {}});
  ApiDelta d;
  d.text = "y";
  d.token_ids = {6};
  const std::string next = w.Delta(d);
  EXPECT_EQ(next.find("id: 4.1e."), 0u) << next;
  EXPECT_EQ(next.find("role"), std::string::npos);
  d = {.choice = 1, .finish_reason = "stop"};
  EXPECT_EQ(w.Delta(d), "");
  d = {.choice = 2, .text = "z", .token_ids = {6}};
  EXPECT_NE(w.Delta(d).find("role"), std::string::npos);
}

TEST(StreamWriterTest, UsageComesInOneExtraChunkAndIsNullBefore) {
  StreamWriter w(ChatStream(true), {"id1", "m", 7});
  ApiDelta d;
  d.text = "x";
  d.finish_reason = "stop";
  const auto events = Events(w.Delta(d));
  EXPECT_TRUE(events[1]["usage"].is_null());
  EXPECT_EQ(events[1]["choices"][0]["finish_reason"], "stop");
  const auto last = Events(
      w.Done({.prompt_tokens = 10, .cached_tokens = 4, .output_tokens = 3, .reasoning_tokens = 1}));
  ASSERT_EQ(last.size(), 1u);
  EXPECT_TRUE(last[0]["choices"].empty());
  EXPECT_EQ(last[0]["usage"]["total_tokens"], 13);
  EXPECT_EQ(last[0]["usage"]["prompt_cache_hit_tokens"], 4);
  EXPECT_EQ(last[0]["usage"]["prompt_cache_miss_tokens"], 6);
  EXPECT_EQ(last[0]["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
}

TEST(StreamWriterTest, ReasoningHasItsOwnField) {
  StreamWriter w(ChatStream(false), {"id1", "m", 7});
  ApiDelta d;
  d.reasoning = "because";
  const auto events = Events(w.Delta(d));
  EXPECT_EQ(events[1]["choices"][0]["delta"]["reasoning_content"], "because");
  EXPECT_FALSE(events[1]["choices"][0]["delta"].contains("content"));
}

TEST(StreamWriterTest, AnEmptyDeltaMakesNoEventAfterTheFirst) {
  StreamWriter w(ChatStream(false), {"id1", "m", 7});
  EXPECT_EQ(Events(w.Delta({})).size(), 1u);
  EXPECT_EQ(w.Delta({}), "");
}

TEST(ResponseTest, CompletionsHaveTheOlderFormOfLogprobs) {
  ApiRequest r;
  r.sampling.logprobs = 2;
  ApiDelta d;
  ApiTokenLogprob t;
  t.token = "\xc3";
  t.logprob = -0.5f;
  t.text_offset = 7;
  t.top = {{1, -0.5f, "\xc3"}, {2, -std::numeric_limits<float>::infinity(), "b"}};
  d.logprobs = {t};
  d.finish_reason = "stop";
  ResponseCollector whole(r, {"id1", "m", 7});
  whole.Add(d);
  const Json logprobs = Json::parse(whole.Body({}))["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json::array({"bytes:\\xc3"}));
  EXPECT_EQ(logprobs["token_logprobs"], Json::array({-0.5}));
  EXPECT_EQ(logprobs["top_logprobs"][0]["bytes:\\xc3"], -0.5);
  EXPECT_EQ(logprobs["top_logprobs"][0]["b"], -9999.0) << "JSON has no infinity";
  EXPECT_EQ(logprobs["text_offset"], Json::array({7}));
  EXPECT_EQ(logprobs["bytes"], Json::array({Json::array({0xc3})}));
}

TEST(StreamWriterTest, AChoiceEndsOnce) {
  StreamWriter w(ChatStream(false), {"id1", "m", 7});
  ApiDelta d;
  d.text = "x";
  d.finish_reason = "stop";
  EXPECT_EQ(Events(w.Delta(d)).size(), 2u);
  d.text = "";
  EXPECT_EQ(w.Delta(d), "") << "a router that took over says it again";
}

TEST(StreamWriterTest, LogprobsCarryBytes) {
  ApiRequest r = ChatStream(false);
  r.sampling.logprobs = 1;
  StreamWriter w(r, {"id1", "m", 7});
  ApiDelta d;
  ApiTokenLogprob t;
  t.token = "\xc3";
  t.logprob = -0.5f;
  t.top.push_back({3, -0.5f, "\xc3"});
  d.logprobs = {t};
  const auto events = Events(w.Delta(d));
  const Json& item = events[1]["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(item["bytes"], Json::array({0xc3}));
  EXPECT_EQ(item["top_logprobs"][0]["bytes"], Json::array({0xc3}));
}

TEST(ResponseCollectorTest, JoinsTheDeltasOfEachChoice) {
  ApiRequest r;
  r.chat = true;
  ResponseCollector c(r, {"id1", "m", 7});
  for (const char* text : {"a", "b"}) {
    ApiDelta d;
    d.text = text;
    d.reasoning = "r";
    c.Add(d);
  }
  ApiDelta other;
  other.choice = 1;
  other.text = "z";
  other.finish_reason = "length";
  c.Add(other);
  const Json body = Json::parse(
      c.Body({.prompt_tokens = 1, .cached_tokens = 0, .output_tokens = 3, .reasoning_tokens = 0}));
  EXPECT_EQ(body["choices"][0]["message"]["content"], "ab");
  EXPECT_EQ(body["choices"][0]["message"]["reasoning_content"], "rr");
  EXPECT_EQ(body["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(body["object"], "chat.completion");
}

TEST(ErrorBodyTest, AlwaysHasItsFourKeys) {
  const Json body = Json::parse(
      ErrorBody({.http = 500, .type = "internal_error", .code = "internal_error", .message = "x"}));
  EXPECT_EQ(body["error"].size(), 4u);
  EXPECT_TRUE(body["error"]["param"].is_null());
}

}  // namespace
}  // namespace choir
