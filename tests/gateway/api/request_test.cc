#include "gateway/api/request.h"

#include <gtest/gtest.h>

#include "gateway/api/field_reader.h"

namespace choir {
namespace {

const char kMessages[] = R"("model":"m","messages":[{"role":"user","content":"hi"}])";

RestError Chat(const std::string& extra, ApiRequest* request = nullptr) {
  ApiRequest local;
  return ParseChatRequest("{" + std::string(kMessages) + (extra.empty() ? "" : "," + extra) + "}",
                          request ? request : &local);
}

TEST(ParseChatTest, ReadsEverySamplingField) {
  ApiRequest r;
  const RestError e =
      Chat(R"("max_tokens":5,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"n":2,"seed":-7,
    "presence_penalty":-2,"frequency_penalty":2,"stop":["a","b"],"stop_token_ids":[3],
    "ignore_eos":true,"logit_bias":{"5":-100},"logprobs":true,"top_logprobs":20,"stream":true,
    "stream_options":{"include_usage":true},"user":"u","metadata":{"a":1},"store":true,
    "service_tier":"auto","parallel_tool_calls":false,"prediction":null)",
           &r);
  ASSERT_TRUE(e.ok()) << e.message;
  EXPECT_EQ(r.sampling.max_tokens, 5u);
  EXPECT_EQ(r.sampling.seed, -7);
  EXPECT_EQ(r.sampling.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(r.sampling.logit_bias.at(5), -100);
  EXPECT_EQ(r.sampling.logprobs, 20u);
  EXPECT_TRUE(r.stream && r.include_usage && *r.sampling.ignore_eos);
  EXPECT_EQ(r.messages_json, R"([{"role":"user","content":"hi"}])");
}

TEST(ParseChatTest, SeedsReachTheEndsOf64Bits) {
  ApiRequest r;
  ASSERT_TRUE(Chat(R"("seed":-9223372036854775808)", &r).ok());
  EXPECT_EQ(r.sampling.seed, INT64_MIN);
  ASSERT_TRUE(Chat(R"("seed":9223372036854775807)", &r).ok());
  EXPECT_EQ(r.sampling.seed, INT64_MAX);
  ASSERT_TRUE(Chat(R"("seed":1e18)", &r).ok());
  EXPECT_EQ(r.sampling.seed, 1000000000000000000);
}

TEST(ParseChatTest, SwitchesOfThinkingBecomeVariablesOfTheTemplate) {
  const auto variables = [](const std::string& fields) {
    ApiRequest r;
    const RestError e = Chat(fields, &r);
    return e.ok() ? r.template_kwargs_json : e.message;
  };
  EXPECT_EQ(variables(R"("thinking":{"type":"disabled"})"),
            R"({"thinking":false,"enable_thinking":false})");
  EXPECT_EQ(variables(R"("reasoning_effort":"low","chat_template_kwargs":{"a":1})"),
            R"({"a":1,"reasoning_effort":"low"})");
  EXPECT_EQ(variables(R"("reasoning_effort":"none")"),
            R"({"reasoning_effort":"none","thinking":false,"enable_thinking":false})");
  EXPECT_EQ(variables(R"("reasoning_effort":"none","chat_template_kwargs":{"thinking":true})"),
            R"({"thinking":true,"reasoning_effort":"none","enable_thinking":false})");
}

TEST(ParseChatTest, AMalformedBodyIsNoParameter) {
  EXPECT_TRUE(Chat(R"("a":)").malformed);
  EXPECT_TRUE(Chat(R"("seed":1,"seed":1)").malformed);
  EXPECT_FALSE(Chat(R"("seed":"1")").malformed);
}

TEST(ParseChatTest, NullIsAsIfAbsent) {
  ApiRequest r;
  ASSERT_TRUE(
      Chat(R"("temperature":null,"stop":null,"tools":null,"stream":null,"response_format":null)",
           &r)
          .ok());
  EXPECT_FALSE(r.sampling.temperature);
}

TEST(ParseChatTest, ValuesThatAskForNothingAreAsIfAbsent) {
  EXPECT_TRUE(Chat(R"("tools":[],"tool_choice":"none","response_format":{"type":"text"})").ok());
  EXPECT_EQ(Chat(R"("tool_choice":"auto")").code, "unsupported_parameter");
}

struct BadCase {
  const char* json;
  const char* param;
  const char* says;
};

class BadChatTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadChatTest, NamesTheFieldAndTheRange) {
  const RestError e = Chat(GetParam().json);
  EXPECT_EQ(e.http, 400);
  EXPECT_EQ(e.param, GetParam().param) << e.message;
  EXPECT_NE(e.message.find(GetParam().says), std::string::npos) << e.message;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadChatTest,
    ::testing::Values(
        BadCase{R"("temperature":2.1)", "temperature", "0..2"},
        BadCase{R"("temperature":"hot")", "temperature", "number"},
        BadCase{R"("top_p":0)", "top_p", "above 0"},
        BadCase{R"("top_p":1.01)", "top_p", "at most 1"}, BadCase{R"("top_k":0)", "top_k", "-1"},
        BadCase{R"("top_k":-2)", "top_k", "-1"}, BadCase{R"("max_tokens":0)", "max_tokens", "1.."},
        BadCase{R"("max_tokens":-5)", "max_tokens", "1.."},
        BadCase{R"("max_tokens":2.7)", "max_tokens", "integer"},
        BadCase{R"("max_tokens":99999999999)", "max_tokens", "2147483647"},
        BadCase{R"("n":0)", "n", "1..128"}, BadCase{R"("n":129)", "n", "1..128"},
        BadCase{R"("min_p":1.5)", "min_p", "0..1"},
        BadCase{R"("presence_penalty":2.5)", "presence_penalty", "-2..2"},
        BadCase{R"("frequency_penalty":-2.5)", "frequency_penalty", "-2..2"},
        BadCase{
            R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])",
            "stop", "16"},
        BadCase{R"("stop":"")", "stop", "empty"}, BadCase{R"("stop":[1])", "stop", "strings"},
        BadCase{R"("logit_bias":{"x":1})", "logit_bias", "'x'"},
        BadCase{R"("logit_bias":{"1":101})", "logit_bias", "-100..100"},
        BadCase{R"("logit_bias":{"-1":1})", "logit_bias", "'-1'"},
        BadCase{R"("logit_bias":{"05":1})", "logit_bias", "'05'"},
        BadCase{R"("top_logprobs":3)", "top_logprobs", "logprobs"},
        BadCase{R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "0..20"},
        BadCase{R"("stream":"yes")", "stream", "true or false"},
        BadCase{R"("stream_options":{"include_usage":true})", "stream_options", "stream"},
        BadCase{R"("stream":true,"stream_options":{"include_usge":true})",
                "stream_options.include_usge", "include_usage"},
        BadCase{R"("temprature":1)", "temprature", "'temperature'"},
        BadCase{R"("tools":[{"type":"function"}])", "tools", "not supported"},
        BadCase{R"("response_format":{"type":"json_object"})", "response_format", "not supported"},
        BadCase{R"("max_tokens":5,"max_completion_tokens":6)", "max_completion_tokens",
                "max_tokens"},
        BadCase{R"("reasoning_effort":"extreme")", "reasoning_effort", "low"},
        BadCase{R"("thinking":{"type":"on"})", "thinking.type", "enabled"},
        BadCase{R"("seed":1.5)", "seed", "integer"}, BadCase{R"("seed":1e19)", "seed", "integer"},
        BadCase{R"("user":5)", "user", "string"},
        BadCase{R"("metadata":"x")", "metadata", "object"},
        BadCase{R"("store":"yes")", "store", "true or false"},
        BadCase{R"("service_tier":1)", "service_tier", "string"},
        BadCase{R"("parallel_tool_calls":1)", "parallel_tool_calls", "true or false"},
        BadCase{R"("seed":9223372036854775808)", "seed", "integer"},
        BadCase{R"("temperature":1e999)", "temperature", "out of range -1.8e+308..1.8e+308"},
        BadCase{R"("stop":[1e999])", "", "out of range"},
        BadCase{R"("temperature":NaN)", "", "NaN and Infinity are not JSON numbers"},
        BadCase{R"("temperature":nan)", "", "NaN and Infinity are not JSON numbers"},
        BadCase{R"("temperature":-Infinity)", "", "NaN and Infinity are not JSON numbers"},
        BadCase{R"("temperature":nil)", "", "syntax error (near byte"},
        BadCase{R"("temperature":)", "", "syntax error (near byte"},
        BadCase{R"("temperature":1,"temperature":1)", "temperature", "twice"},
        BadCase{R"("user":"\ud800")", "", "lone surrogate"},
        BadCase{R"("user":"\udc00")", "", "lone surrogate"},
        BadCase{R"("\ud800x":1)", "", "lone surrogate"},
        BadCase{"\"user\":\"\xff\"", "", "not valid UTF-8"},
        BadCase{"\"user\":\"surrogate \xff\"", "", "not valid UTF-8"},
        BadCase{"\"user\":\"UTF-8\x01\"", "", "syntax error (near byte"}));

RestError Messages(const std::string& messages) {
  ApiRequest r;
  return ParseChatRequest(R"({"model":"m","messages":)" + messages + "}", &r);
}

TEST(ParseChatTest, AssistantMessageOfAnSdkIsAcceptedBack) {
  EXPECT_TRUE(
      Messages(
          R"([{"role":"user","content":[{"type":"text","text":"a"}]},{"role":"assistant","content":"b","refusal":null,
    "annotations":[],"audio":null,"function_call":null,"tool_calls":null,
    "reasoning_content":"r"},{"role":"user","content":"c","name":"n"}])")
          .ok());
}

TEST(ParseChatTest, BadMessagesNameTheirPlace) {
  EXPECT_EQ(Messages("[]").param, "messages");
  EXPECT_EQ(Messages("\"x\"").param, "messages");
  EXPECT_EQ(Messages(R"([{"content":"x"}])").param, "messages[0].role");
  EXPECT_EQ(Messages(R"([{"role":"user","content":"x"},{"role":"user"}])").param,
            "messages[1].content");
  EXPECT_EQ(Messages(R"([{"role":"user","content":5}])").param, "messages[0].content");
  EXPECT_EQ(Messages(R"([{"role":"user","content":[{"type":"image_url","image_url":{}}]}])").param,
            "messages[0].content[0].type");
  EXPECT_EQ(Messages(R"([{"role":"user","content":[{"type":"text","text":"a","x":1}]}])").param,
            "messages[0].content[0].x");
  EXPECT_EQ(Messages(R"([{"role":"user","content":[]}])").param, "messages[0].content");
  EXPECT_EQ(Messages(R"([{"role":"assistant","tool_calls":[{"function":{"name":"f"}}]}])").param,
            "messages[0].tool_calls[0].function.arguments");
  EXPECT_EQ(Messages(R"([{"role":"user","content":"x","foo":1}])").param, "messages[0].foo");
  EXPECT_EQ(Messages("[3]").param, "messages[0]");
}

TEST(ParseChatTest, MissingModelIsNamed) {
  ApiRequest r;
  EXPECT_EQ(ParseChatRequest(R"({"messages":[{"role":"user","content":"x"}]})", &r).param, "model");
  EXPECT_EQ(ParseChatRequest("[]", &r).http, 400);
  EXPECT_EQ(ParseChatRequest("", &r).http, 400);
}

TEST(ParseCompletionTest, PromptIsTextOrIds) {
  ApiRequest r;
  ASSERT_TRUE(
      ParseCompletionRequest(
          R"({"model":"m","prompt":"x","logprobs":2,"echo":false,"suffix":null,"best_of":1})", &r)
          .ok());
  ASSERT_EQ(r.prompts.size(), 1u);
  EXPECT_EQ(r.prompts[0].text, "x");
  EXPECT_EQ(r.sampling.logprobs, 2u);
  ApiRequest ids;
  ASSERT_TRUE(ParseCompletionRequest(R"({"model":"m","prompt":[1,2,3]})", &ids).ok());
  ASSERT_EQ(ids.prompts.size(), 1u);
  EXPECT_EQ(ids.prompts[0].ids, (std::vector<int32_t>{1, 2, 3}));
  ApiRequest nested;
  ASSERT_TRUE(ParseCompletionRequest(R"({"model":"m","prompt":[[4,5]]})", &nested).ok());
  ASSERT_EQ(nested.prompts.size(), 1u);
  EXPECT_EQ(nested.prompts[0].ids, (std::vector<int32_t>{4, 5}));
  for (const char* bad : {R"(["a",3])", "[-1]", "[1.5]", "{}", "[]", "3", "[[]]", R"([1,"a"])"}) {
    ApiRequest b;
    EXPECT_EQ(
        ParseCompletionRequest(std::string(R"({"model":"m","prompt":)") + bad + "}", &b).param,
        "prompt")
        << bad;
  }
}

RestError Completion(const std::string& extra, ApiRequest* r) {
  return ParseCompletionRequest(R"({"model":"m",)" + extra + "}", r);
}

TEST(ParseCompletionTest, ABatchHasOnePromptForEachEntry) {
  ApiRequest r;
  ASSERT_TRUE(Completion(R"("prompt":["a",[1,2],"b"],"n":2)", &r).ok());
  ASSERT_EQ(r.prompts.size(), 3u);
  EXPECT_EQ(r.prompts[0].text, "a");
  EXPECT_EQ(r.prompts[1].ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(r.prompts[2].text, "b");
  std::string many = R"("n":2,"prompt":["x")";
  for (int i = 1; i < 64; ++i) many += R"(,"x")";
  ApiRequest most, over;
  EXPECT_TRUE(Completion(many + "]", &most).ok());
  const RestError e = Completion(many + R"(,"x"])", &over);
  EXPECT_EQ(e.param, "prompt");
  EXPECT_NE(e.message.find("128"), std::string::npos);
}

TEST(ParseCompletionTest, EchoAllowsNoTokensAndNoLogprobs) {
  ApiRequest r, plain, both;
  ASSERT_TRUE(Completion(R"("prompt":"x","echo":true,"max_tokens":0)", &r).ok());
  EXPECT_TRUE(r.echo);
  EXPECT_EQ(r.sampling.max_tokens, 0u);
  EXPECT_EQ(Completion(R"("prompt":"x","max_tokens":0)", &plain).param, "max_tokens");
  EXPECT_EQ(Completion(R"("prompt":"x","echo":true,"logprobs":0)", &both).param, "echo");
}

TEST(ParseCompletionTest, RoutersErrorsNameTheClientsField) {
  RestError error = InvalidValue("token_ids", "token_ids[2] is 302, but token ids are in [0, 301]");
  NameCompletionFields(&error);
  EXPECT_EQ(error.param, "prompt");
  EXPECT_EQ(error.message, "prompt[2] is 302, but token ids are in [0, 301]");
  RestError other = InvalidValue("stop_token_ids", "stop_token_ids[0] is 302, but token ids ...");
  NameCompletionFields(&other);
  EXPECT_EQ(other.param, "stop_token_ids");
  EXPECT_TRUE(other.message.starts_with("stop_token_ids[0]"));
}

TEST(StrictJsonTest, DepthIsLimitedAtItsEdge) {
  Json out;
  EXPECT_TRUE(ParseStrictJson(std::string(64, '[') + std::string(64, ']'), 64, &out).ok());
  EXPECT_EQ(ParseStrictJson(std::string(65, '[') + std::string(65, ']'), 64, &out).http, 400);
  EXPECT_EQ(ParseStrictJson(std::string(100000, '['), 64, &out).http, 400);
}

TEST(StrictJsonTest, ErrorsSayWhere) {
  Json out;
  EXPECT_EQ(ParseStrictJson(R"({"a":NaN})", 64, &out).message,
            "the body is not valid JSON: NaN and Infinity are not JSON numbers (near byte 6)");
  EXPECT_EQ(ParseStrictJson(R"({"a":1)", 64, &out).message,
            "the body is not valid JSON: it ends too early (near byte 7)");
}

TEST(StrictJsonTest, AMillionKeysTakeNoQuadraticTime) {
  std::string text = "{";
  for (int i = 0; i < 1000000; ++i) text += (i ? ",\"" : "\"") + std::to_string(i) + "\":0";
  Json out;
  ASSERT_TRUE(ParseStrictJson(text + "}", 64, &out)
                  .ok());  // quadratic would be hours: the test's time limit finds it
  EXPECT_EQ(out.size(), 1000000u);
}

TEST(StrictJsonTest, ANulByteIsNotTheEnd) {
  Json out;
  const std::string text("{}\0{}", 5);
  EXPECT_EQ(ParseStrictJson(text, 64, &out).message,
            "the body is not valid JSON: a NUL byte (near byte 3)");
}

TEST(StrictJsonTest, KeepsOrderAndValues) {
  Json out;
  const std::string text = R"({"b":[1,-2,3.5,true,null,{"x":"é"}],"a":{}})";
  ASSERT_TRUE(ParseStrictJson(text, 64, &out).ok());
  EXPECT_EQ(out.dump(), text);
}

}  // namespace
}  // namespace choir
