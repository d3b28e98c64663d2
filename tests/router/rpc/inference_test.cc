#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>

#include <cmath>
#include <fstream>
#include <future>
#include <set>
#include <thread>

#include "choir/v1/rich_status.pb.h"
#include "router/audit/audit_verify.h"
#include "tests/router/rpc/router_fixture.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

class InferenceTest : public RouterFixture {
 protected:
  // Whether the status carries google.rpc.RetryInfo.
  static bool HasRetry(const grpc::Status& status) {
    v1::RichStatus rich;
    EXPECT_TRUE(rich.ParseFromString(status.error_details()));
    for (const auto& detail : rich.details()) {
      if (detail.type_url() == "type.googleapis.com/google.rpc.RetryInfo") return true;
    }
    return false;
  }
  static std::string Reason(const grpc::Status& status) {
    v1::RichStatus rich;
    v1::ErrorInfo info;
    EXPECT_TRUE(rich.ParseFromString(status.error_details()));
    for (const auto& detail : rich.details()) {
      if (detail.type_url() == "type.googleapis.com/google.rpc.ErrorInfo") {
        EXPECT_TRUE(info.ParseFromString(detail.value()));
      }
    }
    return info.reason();
  }
};

TEST_F(InferenceTest, StreamsTheAnswerWithUsageAtItsEnd) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  v1::GenerateRequest request = Prompt("hello", 40, 3);
  request.set_request_id("mine-1");
  request.mutable_sampling()->set_logprobs(0);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text.at(0), FakeText(3, 0, 40));
  EXPECT_EQ(answer.finish.at(0), "length");
  EXPECT_EQ(answer.request_id, "mine-1");
  EXPECT_EQ(answer.seed, 3);
  EXPECT_EQ(answer.logprobs, 40u);
  ASSERT_TRUE(answer.usage);
  EXPECT_EQ(answer.usage->prompt_tokens(), 5u);
  EXPECT_EQ(answer.usage->output_tokens(), 40u);
  ExpectLedgersBalance();
}

TEST_F(InferenceTest, ANameThatIsGivenAgainStandsBesideOneOfOursOnRecord) {
  const FakeWorker worker;
  const TempDir dir;
  options_.audit.store = {.dir = dir.path() + "/audit", .keys_dir = dir.path() + "/keys"};
  StartRouter({&worker}, 1);
  v1::GenerateRequest request = Prompt("hello", 4, 3);
  request.set_request_id("mine-1");
  const auto ask = [&] { EXPECT_EQ(Generate(request).request_id, "mine-1"); };
  ask();
  ask();
  router_.reset();
  options_.workers.clear();
  StartRouter({&worker}, 1);
  ask();  // also when it was given before a restart
  router_->Stop();
  std::vector<std::string> ids;
  const auto verdict = VerifyAudit(dir.path() + "/audit", "", [&](const nlohmann::json& record) {
    if (record["phase"] != "intent") return;
    ids.push_back(record["request_id"].get<std::string>());
    EXPECT_EQ(record.value("client_request_id", ""), ids.size() == 1 ? "" : "mine-1");
  });
  ASSERT_TRUE(verdict.ok() && verdict->intact);
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_EQ(ids[0], "mine-1");
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), 3u);
}

TEST_F(InferenceTest, WhoIsNobodyTakesNoNames) {
  const FakeWorker worker;
  const TempDir dir;
  options_.audit.store = {.dir = dir.path() + "/audit", .keys_dir = dir.path() + "/keys"};
  v1::GenerateRequest request = Prompt("hello", 4, 3);
  const auto ask = [&](const char* name, const std::string& key) {
    request.set_request_id(name);
    return Generate(request, key).status.ok();
  };
  StartRouter({&worker}, 1);
  EXPECT_FALSE(ask("mine-1", "ck-nobody"));
  EXPECT_FALSE(ask("mine-2", "ck-nobody"));
  EXPECT_TRUE(ask("mine-1", "-"));
  router_.reset();
  options_.workers.clear();
  StartRouter({&worker}, 1);
  EXPECT_TRUE(ask("mine-2", "-"));
  router_->Stop();
  std::vector<std::string> refused, served;
  const auto verdict = VerifyAudit(dir.path() + "/audit", "", [&](const nlohmann::json& record) {
    if (record["phase"] == "intent") served.push_back(record["request_id"].get<std::string>());
    if (record["phase"] != "refused") return;
    refused.push_back(record.value("client_request_id", ""));
    EXPECT_TRUE(record["request_id"].get<std::string>().starts_with("req-")) << record;
  });
  ASSERT_TRUE(verdict.ok() && verdict->intact);
  EXPECT_EQ(refused, (std::vector<std::string>{"mine-1", "mine-2"}));
  EXPECT_EQ(served, (std::vector<std::string>{"mine-1", "mine-2"}));
}

TEST_F(InferenceTest, ItsNameIsOfTheMessageElseOfTheMetadata) {
  FakeWorker worker;
  worker.Allow(1);  // all are open at once
  StartRouter({&worker}, 1);
  struct Call {
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader;
    std::string name, given;  // as it is told
  };
  const auto open = [&](const std::string& in_message, const std::string& in_metadata) {
    Call call{.context = Context(), .reader = nullptr, .name = "", .given = ""};
    call.context->AddMetadata("x-request-id", in_metadata);
    v1::GenerateRequest request = Prompt("hello", 4, 3);
    request.set_request_id(in_message);
    call.reader = inference_->Generate(call.context.get(), request);
    v1::GenerateEvent accepted;
    EXPECT_TRUE(call.reader->Read(&accepted));
    call.name = accepted.request_id();
    const auto& told = call.context->GetServerInitialMetadata();
    const auto given = told.find("x-client-request-id");
    if (given != told.end()) call.given.assign(given->second.data(), given->second.size());
    return call;
  };
  std::vector<Call> calls;
  calls.push_back(open("", "mine"));
  calls.push_back(open("yours", "mine"));
  calls.push_back(open("", "mine"));
  EXPECT_EQ(calls[0].name + calls[0].given, "mine");
  EXPECT_EQ(calls[1].name + calls[1].given, "yours");
  EXPECT_TRUE(calls[2].name.starts_with("req-")) << calls[2].name;
  EXPECT_EQ(calls[2].given, "mine");
  worker.Allow(1000);
  for (Call& call : calls) {
    v1::GenerateEvent event;
    while (call.reader->Read(&event)) {
    }
    EXPECT_TRUE(call.reader->Finish().ok());
  }
}

TEST_F(InferenceTest, ChoicesAreIndependentAndAStopStringEndsEach) {
  FakeWorker worker;
  StartRouter({&worker}, 1);
  v1::GenerateRequest request = Prompt("x", 30);
  request.mutable_sampling()->set_n(3);
  request.mutable_sampling()->add_stop("fox");
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  for (uint32_t i = 0; i < 3; ++i) {
    const std::string whole = FakeText(0, i, 30);
    EXPECT_EQ(answer.text.at(i), whole.substr(0, whole.find("fox")));
    EXPECT_EQ(answer.finish.at(i), "stop");
    EXPECT_EQ(answer.tokens.at(i), whole.find("fox") + 3);
  }
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
}

TEST_F(InferenceTest, DrawsAndReportsASeedAndTheDefaultTokenLimitHolds) {
  const FakeWorker worker;
  options_.default_max_tokens = 7;
  StartRouter({&worker}, 1);
  v1::GenerateRequest request;
  request.set_model("tiny");
  request.mutable_token_ids()->add_ids(65);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_GE(answer.seed, 0);
  EXPECT_EQ(answer.tokens.at(0), 7u);
  request.mutable_sampling()->set_seed(answer.seed);
  EXPECT_EQ(Generate(request).text, answer.text);
}

TEST_F(InferenceTest, ChatRendersTheTemplateAndSplitsReasoning) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  v1::ChatRequest request;
  request.set_model("tiny");
  request.set_messages_json(R"([{"role":"user","content":"hi"}])");
  request.mutable_sampling()->set_max_tokens(10);
  request.mutable_sampling()->set_seed(0);
  const auto ask = [&] {
    Answer answer;
    const auto context = Context();
    const auto reader = inference_->Chat(context.get(), request);
    v1::GenerateEvent event;
    while (reader->Read(&event)) answer.Add(event);
    answer.status = reader->Finish();
    return answer;
  };
  Answer answer = ask();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.usage->prompt_tokens(), std::string("[user]hi\n[assistant]").size());
  EXPECT_EQ(answer.text.at(0), FakeText(0, 0, 10));
  EXPECT_EQ(answer.reasoning.at(0), "");
  request.set_template_kwargs_json(R"({"think":true})");
  answer = ask();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.reasoning.at(0), FakeText(0, 0, 10));
  EXPECT_EQ(answer.text.at(0), "");
  EXPECT_EQ(answer.usage->reasoning_tokens(), 10u);
  request.set_messages_json("[]");
  EXPECT_EQ(ask().status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(InferenceTest, NobodyIsServedWithoutAValidKey) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  for (const char* key : {"", "wrong", "ck-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}) {
    const Answer answer = Generate(Prompt("x", 1), key);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << key;
    EXPECT_FALSE(HasRetry(answer.status));
    v1::ListModelsResponse response;
    const auto context = Context(key);
    EXPECT_EQ(inference_->ListModels(context.get(), {}, &response).error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
  }
  v1::ListModelsResponse response;
  const auto context = Context();
  ASSERT_TRUE(inference_->ListModels(context.get(), {}, &response).ok());
  ASSERT_EQ(response.models_size(), 1);
  EXPECT_EQ(response.models(0).id(), "tiny");
  EXPECT_EQ(response.models(0).numerics_id(), "num");
  EXPECT_EQ(response.models(0).context_length(), static_cast<uint32_t>(kTinyContext));
}

TEST_F(InferenceTest, ARevokedKeyStopsServing) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  KeyRecord revoked = key_.record;
  revoked.revoked = "2026-01-01T00:00:00Z";
  ASSERT_TRUE(SaveKeys(options_.identity.keys_file, {revoked}).ok());
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  Answer answer;
  do {
    answer = Generate(Prompt("x", 1));
  } while (answer.status.ok() && std::chrono::steady_clock::now() < end);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(InferenceTest, EachRangeIsCheckedAndNamed) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  struct Row {
    const char* field;
    const char* range;
    std::function<void(v1::Sampling*)> set;
  };
  const Row rows[] = {
      {"temperature", "[0, 2]", [](auto* s) { s->set_temperature(2.5); }},
      {"temperature", "[0, 2]", [](auto* s) { s->set_temperature(std::nan("")); }},
      {"top_p", "(0, 1]", [](auto* s) { s->set_top_p(0); }},
      {"top_k", "-1", [](auto* s) { s->set_top_k(0); }},
      {"min_p", "[0, 1]", [](auto* s) { s->set_min_p(-0.1); }},
      {"presence_penalty", "[-2, 2]", [](auto* s) { s->set_presence_penalty(3); }},
      {"frequency_penalty", "[-2, 2]", [](auto* s) { s->set_frequency_penalty(-3); }},
      {"n", "[1, 128]", [](auto* s) { s->set_n(0); }},
      {"n", "[1, 128]", [](auto* s) { s->set_n(129); }},
      {"logprobs", "[0, 20]", [](auto* s) { s->set_logprobs(21); }},
      {"max_tokens", "at least 1", [](auto* s) { s->set_max_tokens(0); }},
      {"stop", "1 to", [](auto* s) { s->add_stop(""); }},
      {"stop", "at most 16",
       [](auto* s) {
         for (int i = 0; i < 17; ++i) s->add_stop("x");
       }},
      {"stop_token_ids", "[0, 259]", [](auto* s) { s->add_stop_token_ids(260); }},
      {"logit_bias", "[0, 259]", [](auto* s) { (*s->mutable_logit_bias())[-1] = 1; }},
      {"logit_bias", "[-100, 100]", [](auto* s) { (*s->mutable_logit_bias())[1] = 101; }},
  };
  for (const Row& row : rows) {
    v1::GenerateRequest request = Prompt("x", 1);
    row.set(request.mutable_sampling());
    const grpc::Status status = Generate(request).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << row.field;
    EXPECT_NE(status.error_message().find(row.field), std::string::npos) << status.error_message();
    EXPECT_NE(status.error_message().find(row.range), std::string::npos) << status.error_message();
  }
  ExpectLedgersBalance();
}

TEST_F(InferenceTest, OtherWrongRequestsGetTheirErrors) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  v1::GenerateRequest request = Prompt("x", 1);
  request.set_model("other");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Reason(Generate(request).status), "model_not_found");
  EXPECT_EQ(Generate(Prompt("", 1)).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request = Prompt("x", 1);
  request.clear_prompt();
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_token_ids()->add_ids(kTinyVocab);
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request = Prompt("x", 1);
  request.set_request_id("no spaces");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const grpc::Status status = Generate(Prompt(std::string(256, 'x'), 1)).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(status.error_message().find("256"), std::string::npos);
  // One token fits.
  const Answer answer = Generate(Prompt(std::string(255, 'x'), 100));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens.at(0), 1u);
  EXPECT_EQ(answer.finish.at(0), "length");
}

TEST_F(InferenceTest, WithoutAReadyRankTheClientIsToldToWait) {
  FakeWorker worker;
  worker.SetState(false, false);
  StartRouter({&worker}, 0);
  const grpc::Status status = Generate(Prompt("x", 1)).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(status), "not_ready");
  EXPECT_TRUE(HasRetry(status));
}

TEST_F(InferenceTest, EveryRefusalIsCountedUnderItsReasonFromZero) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  const auto expect = [&](const std::string& reason, int count) {
    EXPECT_THAT(router_->MetricsText(),
                testing::HasSubstr(
                    fmt::format("choir_rejected_total{{reason=\"{}\"}} {}\n", reason, count)));
  };
  for (const char* reason :
       {"invalid_value", "context_length_exceeded", "invalid_api_key", "model_not_found",
        "queue_full", "draining", "not_ready", "requests", "tokens", "concurrency", "audit"}) {
    expect(reason, 0);
  }
  const std::string before = router_->MetricsText();
  for (const char* series : {"choir_route_total{reason=\"only_one\"} 0\n",
                             "choir_route_total{reason=\"least_load\"} 0\n",
                             "choir_retries_total{cause=\"worker_lost\"} 0\n",
                             "choir_retries_total{cause=\"epoch_ended\"} 0\n",
                             "choir_retries_total{cause=\"refused\"} 0\n"}) {
    EXPECT_THAT(before, testing::HasSubstr(series));
  }
  v1::GenerateRequest request = Prompt("x", 1);
  request.mutable_sampling()->set_temperature(9);
  Generate(request);
  expect("invalid_value", 1);
  Generate(Prompt(std::string(20'000, 'x'), 1));
  expect("context_length_exceeded", 1);
  Generate(Prompt("x", 1), "ck-nobody");
  expect("invalid_api_key", 1);
  const auto context = Context("ck-nobody");
  v1::ListModelsResponse models;
  inference_->ListModels(context.get(), {}, &models);
  expect("invalid_api_key", 2);
  request = Prompt("x", 1);
  request.set_model("other");
  Generate(request);
  expect("model_not_found", 1);
  router_->BeginDrain();
  Generate(Prompt("x", 1));
  expect("draining", 1);
}

TEST_F(InferenceTest, AnAnnouncedDrainRefusesNothingYet) {
  FakeWorker worker;
  StartRouter({&worker}, 1);
  router_->AnnounceDrain();
  EXPECT_TRUE(Generate(Prompt("x", 1)).status.ok());
  EXPECT_THAT(router_->StatusJson(), testing::HasSubstr("\"draining\": true"));
  EXPECT_THAT(router_->MetricsText(), testing::HasSubstr("choir_draining 1\n"));
  router_->BeginDrain();
  EXPECT_EQ(Reason(Generate(Prompt("x", 1)).status), "draining");
}

TEST_F(InferenceTest, WhatEveryRankRefusesIsCountedAsRejected) {
  FakeWorker worker;
  worker.RefuseSubmits();
  StartRouter({&worker}, 1);
  EXPECT_EQ(Reason(Generate(Prompt("x", 1)).status), "queue_full");
  EXPECT_THAT(router_->MetricsText(),
              testing::HasSubstr("choir_rejected_total{reason=\"queue_full\"} 1\n"));
}

TEST_F(InferenceTest, BeyondTheBoundRequestsAreRefused) {
  FakeWorker worker;
  worker.Allow(0);
  options_.requests_max = 1;
  StartRouter({&worker}, 1);
  Answer first;
  std::thread client([&] { first = Generate(Prompt("x", 3)); });
  ASSERT_TRUE(worker.WaitSubmits(1));
  const grpc::Status status = Generate(Prompt("x", 1)).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Reason(status), "queue_full");
  EXPECT_TRUE(HasRetry(status));
  worker.Allow(100);
  client.join();
  EXPECT_TRUE(first.status.ok());
  EXPECT_TRUE(Generate(Prompt("x", 1)).status.ok());
}

TEST_F(InferenceTest, DrainingFinishesWhatRunsAndRefusesTheRest) {
  FakeWorker worker;
  worker.Allow(2);
  StartRouter({&worker}, 1);
  Answer first;
  std::thread client([&] { first = Generate(Prompt("x", 10)); });
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  router_->BeginDrain();
  const grpc::Status status = Generate(Prompt("x", 1)).status;
  EXPECT_EQ(Reason(status), "draining");
  EXPECT_TRUE(HasRetry(status));
  EXPECT_FALSE(router_->Idle());
  worker.Allow(100);
  client.join();
  EXPECT_TRUE(first.status.ok());
  EXPECT_EQ(first.tokens.at(0), 10u);
  EXPECT_TRUE(router_->Idle());
}

// grpc.health.v1 in bytes: an empty request asks for the whole server, field 1 of the answer is the
// state.
TEST_F(InferenceTest, HealthFollowsReadiness) {
  FakeWorker worker;
  worker.SetState(false, false);
  StartRouter({&worker}, 0);
  const auto health = [&] {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    const grpc::Slice nothing;
    const grpc::ByteBuffer request(&nothing, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                   [&](const grpc::Status& status) { done.set_value(status); });
    EXPECT_TRUE(done.get_future().get().ok());
    std::vector<grpc::Slice> slices;
    EXPECT_TRUE(response.Dump(&slices).ok());
    return slices.empty() ? 0 : static_cast<int>(*(slices[0].end() - 1));
  };
  EXPECT_EQ(health(), 2);  // NOT_SERVING
  worker.SetState(true, false);
  WaitReady(1);
  WaitStatus([&](const auto&) { return health() == 1; });
  EXPECT_EQ(health(), 1);  // SERVING
  router_->BeginDrain();
  WaitStatus([&](const auto&) { return health() == 2; });
  EXPECT_EQ(health(), 2);
}

}  // namespace
}  // namespace choir
