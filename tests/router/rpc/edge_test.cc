#include <thread>

#include "router/audit/audit_verify.h"
#include "tests/router/rpc/router_fixture.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

class EdgeTest : public RouterFixture {
 protected:
  // Opens the stream and reads the welcome.
  void Connect(uint32_t protocol = kProtocolVersion) {
    context_ = std::make_unique<grpc::ClientContext>();
    context_->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = edge_->Connect(context_.get());
    v1::EdgeUp up;
    up.mutable_hello()->set_protocol_version(protocol);
    up.mutable_hello()->set_gateway("gw");
    ASSERT_TRUE(stream_->Write(up));
    ASSERT_TRUE(stream_->Read(&down_));
    ASSERT_TRUE(down_.has_welcome());
  }

  v1::EdgeUp Open(uint64_t id, v1::GenerateRequest request) {
    v1::EdgeUp up;
    v1::EdgeOpen* open = up.add_opens();
    open->set_id(id);
    open->set_bearer(key_.secret);
    open->set_route("/v1/completions");
    *open->mutable_generate() = std::move(request);
    return up;
  }

  // What one request's events say, until its last.
  struct Outcome {
    std::optional<v1::EdgeAccepted> accepted;
    Answer answer;
    std::optional<v1::EdgeError> error;
    bool done = false;
  };
  std::map<uint64_t, Outcome> ReadUntilEnded(size_t requests) {
    std::map<uint64_t, Outcome> outcomes;
    size_t ended = 0;
    while (ended < requests && stream_->Read(&down_)) {
      for (const v1::EdgeEvent& event : down_.events()) {
        Outcome& outcome = outcomes[event.id()];
        EXPECT_FALSE(outcome.done || outcome.error) << "an event after the last";
        if (event.has_accepted()) outcome.accepted = event.accepted();
        if (event.has_delta()) outcome.answer.Add(event.delta());
        if (event.has_error()) outcome.error = event.error();
        outcome.done = event.has_done();
        if (event.has_done()) outcome.answer.usage = event.done().usage();
        ended += event.has_done() || event.has_error();
      }
    }
    EXPECT_EQ(ended, requests);
    return outcomes;
  }

  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EdgeUp, v1::EdgeDown>> stream_;
  v1::EdgeDown down_;
};

TEST_F(EdgeTest, WelcomesWithItsModel) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  ASSERT_EQ(down_.welcome().models_size(), 1);
  EXPECT_EQ(down_.welcome().models(0).id(), "tiny");
  EXPECT_FALSE(down_.welcome().draining());
  router_->AnnounceDrain();
  ASSERT_TRUE(stream_->Read(&down_));
  EXPECT_TRUE(down_.welcome().draining());
}

TEST_F(EdgeTest, RefusesAnotherProtocolByName) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  grpc::ClientContext context;
  auto stream = edge_->Connect(&context);
  v1::EdgeUp up;
  up.mutable_hello()->set_protocol_version(77);
  up.mutable_hello()->set_gateway("gw-old");
  stream->Write(up);
  v1::EdgeDown down;
  EXPECT_FALSE(stream->Read(&down));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("gw-old"), std::string::npos);
}

TEST_F(EdgeTest, ChecksKeysBeforeTheBody) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  v1::EdgeUp up;
  up.add_auths()->set_id(1);
  up.mutable_auths(0)->set_bearer(key_.secret);
  up.add_auths()->set_id(2);
  up.mutable_auths(1)->set_bearer("ck-nobody");
  ASSERT_TRUE(stream_->Write(up));
  ASSERT_TRUE(stream_->Read(&down_));
  ASSERT_EQ(down_.auths_size(), 2);
  EXPECT_EQ(down_.auths(0).tenant(), "acme");
  EXPECT_FALSE(down_.auths(0).has_error());
  EXPECT_EQ(down_.auths(1).error().http(), 401u);
  EXPECT_EQ(down_.auths(1).error().code(), "invalid_api_key");
}

TEST_F(EdgeTest, ARefusedKeyIsOnRecordWithTheNameOfItsAnswer) {
  const FakeWorker worker;
  const TempDir dir;
  options_.audit.store = {.dir = dir.path() + "/audit", .keys_dir = dir.path() + "/keys"};
  StartRouter({&worker}, 1);
  Connect();
  v1::EdgeUp up;
  up.add_auths()->set_id(1);
  up.mutable_auths(0)->set_bearer("ck-nobody");
  up.mutable_auths(0)->set_client_request_id("mine");
  ASSERT_TRUE(stream_->Write(up));
  ASSERT_TRUE(stream_->Read(&down_));
  ASSERT_EQ(down_.auths_size(), 1);
  const std::string receipt = down_.auths(0).error().audit_receipt();
  router_->Stop();
  nlohmann::json found;
  const auto verdict = VerifyAudit(dir.path() + "/audit", "", [&](const nlohmann::json& record) {
    if (record["phase"] == "refused") found = record;
  });
  ASSERT_TRUE(verdict.ok() && verdict->intact);
  EXPECT_EQ(found["client_request_id"], "mine");
  EXPECT_TRUE(receipt.ends_with(":" + found["seq"].dump())) << receipt;
}

TEST_F(EdgeTest, ExplainsWhereARequestWouldGoAndRunsNothing) {
  FakeWorker a({.worker_id = "g0r0"}), b({.worker_id = "g0r1"});
  b.SetState(false, false);
  StartRouter({&a, &b}, 1);
  Connect();
  v1::EdgeUp up;
  for (const uint64_t id : {1, 2}) {
    *up.add_explains() = Open(id, Prompt("hello", 30, 1)).opens(0);
  }
  up.mutable_explains(1)->mutable_generate()->mutable_sampling()->set_temperature(9);
  ASSERT_TRUE(stream_->Write(up));
  std::map<uint64_t, v1::EdgeExplained> told;
  while (told.size() < 2 && stream_->Read(&down_)) {
    for (const v1::EdgeExplained& explained : down_.explained()) told[explained.id()] = explained;
  }
  ASSERT_EQ(told.size(), 2u);
  const auto page = nlohmann::json::parse(told[1].json());
  EXPECT_EQ(page["worker"], "g0r0");
  EXPECT_EQ(page["reason"], "only_one");
  EXPECT_EQ(page["policy"], "least_load");
  ASSERT_EQ(page["ranks"].size(), 2u);
  EXPECT_TRUE(page["ranks"][0]["picked"].get<bool>());
  EXPECT_EQ(page["ranks"][0]["cost"], page["prompt_tokens"]);
  EXPECT_FALSE(page["ranks"][1]["excluded"].get<std::string>().empty());
  EXPECT_EQ(page["admission"], nlohmann::json({{"outlook", "runs"}, {"class", "default"}}));
  EXPECT_EQ(told[2].error().param(), "temperature");
  const auto ledgers = nlohmann::json::parse(router_->StatusJson())["ledgers"];
  EXPECT_EQ(ledgers["requests"]["admitted"], 0);
  EXPECT_EQ(ledgers["sequences"]["submitted"], 0);
}

TEST_F(EdgeTest, ManyRequestsShareTheStream) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  for (uint64_t id = 1; id <= 20; ++id) {
    v1::GenerateRequest request = Prompt("hello", 30, static_cast<int64_t>(id));
    request.set_echo_token_ids(id == 1);
    if (id == 7) request.mutable_sampling()->set_temperature(9);
    if (id == 8) request.set_model("other");
    ASSERT_TRUE(stream_->Write(Open(id, request)));
  }
  const auto outcomes = ReadUntilEnded(20);
  for (const auto& [id, outcome] : outcomes) {
    if (id == 7 || id == 8) {
      ASSERT_TRUE(outcome.error);
      EXPECT_FALSE(outcome.accepted);
      EXPECT_EQ(outcome.error->http(), id == 7 ? 400u : 404u);
      EXPECT_EQ(outcome.error->param(), id == 7 ? "temperature" : "model");
      EXPECT_FALSE(outcome.error->type().empty());
      continue;
    }
    ASSERT_TRUE(outcome.accepted && outcome.done) << id;
    EXPECT_EQ(outcome.accepted->prompt_tokens(), 5u);
    EXPECT_EQ(outcome.accepted->prompt_token_ids_size(), id == 1 ? 5 : 0);
    EXPECT_EQ(outcome.answer.text.at(0), FakeText(id, 0, 30));
    EXPECT_EQ(outcome.answer.usage->output_tokens(), 30u);
  }
  ExpectLedgersBalance();
}

TEST_F(EdgeTest, ACancelEndsTheRequestAndFreesTheWorker) {
  FakeWorker worker;
  worker.Allow(3);
  StartRouter({&worker}, 1);
  Connect();
  ASSERT_TRUE(stream_->Write(Open(1, Prompt("x", 50))));
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  v1::EdgeUp up;
  up.add_cancels()->set_id(1);
  ASSERT_TRUE(stream_->Write(up));
  const auto outcomes = ReadUntilEnded(1);
  ASSERT_TRUE(outcomes.at(1).error);
  EXPECT_EQ(outcomes.at(1).error->http(), 499u);
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
}

TEST_F(EdgeTest, TheClientsDeadlineHolds) {
  FakeWorker worker;
  worker.Allow(3);
  StartRouter({&worker}, 1);
  Connect();
  v1::EdgeUp up = Open(1, Prompt("x", 50));
  up.mutable_opens(0)->set_timeout_ms(200);
  ASSERT_TRUE(stream_->Write(up));
  const auto outcomes = ReadUntilEnded(1);
  ASSERT_TRUE(outcomes.at(1).error);
  EXPECT_EQ(outcomes.at(1).error->http(), 504u);
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
}

TEST_F(EdgeTest, AResumeGoesOnWhereAnotherRouterStopped) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  const std::string whole = FakeText(6, 0, 40);
  v1::EdgeUp up = Open(1, Prompt("hello", 40));
  v1::EdgeResume* resume = up.mutable_opens(0)->mutable_resume();
  resume->set_request_id("from-elsewhere");
  resume->set_seed(6);
  v1::EdgeResumeChoice* choice = resume->add_choices();
  for (int i = 0; i < 12; ++i) choice->add_token_ids(static_cast<uint8_t>(whole[i]));
  choice->set_text_bytes(12);
  ASSERT_TRUE(stream_->Write(up));
  const auto outcomes = ReadUntilEnded(1);
  ASSERT_TRUE(outcomes.at(1).done);
  EXPECT_EQ(outcomes.at(1).accepted->request_id(), "from-elsewhere");
  EXPECT_EQ(outcomes.at(1).answer.text.at(0), whole.substr(12));
  EXPECT_EQ(outcomes.at(1).answer.tokens.at(0), 28u);
  EXPECT_EQ(outcomes.at(1).answer.usage->output_tokens(), 40u);
}

TEST_F(EdgeTest, AGatewayThatGoesAwayTakesItsRequestsAlong) {
  FakeWorker worker;
  worker.Allow(3);
  StartRouter({&worker}, 1);
  Connect();
  ASSERT_TRUE(stream_->Write(Open(1, Prompt("x", 50))));
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  context_->TryCancel();
  stream_->Finish();
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
}

// Reads up to the answer of an `auth` that is sent now: whatever was ready before it.
class EdgeWindowTest : public EdgeTest {
 protected:
  std::vector<v1::EdgeEvent> ReadWhatIsThere() {
    v1::EdgeUp up;
    up.add_auths()->set_id(++auth_);
    EXPECT_TRUE(stream_->Write(up));
    std::vector<v1::EdgeEvent> events;
    do {
      if (!stream_->Read(&down_)) break;
      events.insert(events.end(), down_.events().begin(), down_.events().end());
    } while (down_.auths().empty());
    return events;
  }
  void Grant(uint64_t id, uint64_t bytes) {
    v1::EdgeUp up;
    up.add_grants()->set_id(id);
    up.mutable_grants(0)->set_bytes(bytes);
    EXPECT_TRUE(stream_->Write(up));
  }
  bool WaitEnded(const char* how) {
    return WaitStatus([how](const auto& page) { return page["ledgers"]["requests"][how] == 1; });
  }
  uint64_t auth_ = 100;
};

TEST_F(EdgeWindowTest, NoMoreIsSentThanTheClientHasRoomFor) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  constexpr size_t kWindow = 60;
  v1::EdgeUp up = Open(1, Prompt("hello", 40, 3));
  up.mutable_opens(0)->set_window_bytes(kWindow);
  ASSERT_TRUE(stream_->Write(up));
  ASSERT_TRUE(WaitEnded("finished"));  // the router is through, its client is not
  std::string text;
  uint64_t grant = 0;
  bool done = false;
  for (int round = 0; !done && round < 1000; ++round) {
    size_t got = 0, last = 0;
    for (const v1::EdgeEvent& event : ReadWhatIsThere()) {
      ASSERT_FALSE(done);
      done = event.has_done();
      if (!event.has_delta()) continue;
      last = event.ByteSizeLong();
      got += last;
      text += event.delta().text();
    }
    EXPECT_LT(got, kWindow + last) << "only the last event may overdraw the window";
    EXPECT_TRUE(round > 0 || !done);
    grant = got;
    Grant(1, grant);
  }
  EXPECT_TRUE(done);
  EXPECT_EQ(text, FakeText(3, 0, 40));
  ExpectLedgersBalance();
}

TEST_F(EdgeWindowTest, AClientThatLetsTooMuchWaitIsCutAndTheOthersAreNot) {
  FakeWorker worker;
  options_.edge.held_bytes_max = 200;
  StartRouter({&worker}, 1);
  Connect();
  v1::EdgeUp up = Open(1, Prompt("hello", 60, 3));
  up.mutable_opens(0)->set_window_bytes(1);
  ASSERT_TRUE(stream_->Write(up));
  ASSERT_TRUE(stream_->Write(Open(2, Prompt("hello", 60, 4))));
  const auto outcomes = ReadUntilEnded(2);
  ASSERT_TRUE(outcomes.at(1).error);
  EXPECT_EQ(outcomes.at(1).error->http(), 499u);
  EXPECT_EQ(outcomes.at(2).answer.text.at(0), FakeText(4, 0, 60));
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
}

TEST_F(EdgeWindowTest, ACancelDropsWhatWaitsForTheWindow) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  v1::EdgeUp up = Open(1, Prompt("hello", 40, 3));
  up.mutable_opens(0)->set_window_bytes(1);
  ASSERT_TRUE(stream_->Write(up));
  ASSERT_TRUE(WaitEnded("finished"));
  (void)ReadWhatIsThere();
  v1::EdgeUp cancel;
  cancel.add_cancels()->set_id(1);
  ASSERT_TRUE(stream_->Write(cancel));
  Grant(1, 1 << 20);
  EXPECT_TRUE(ReadWhatIsThere().empty());
  ASSERT_TRUE(stream_->Write(Open(1, Prompt("hello", 3, 4))));  // the number is free again
  EXPECT_EQ(ReadUntilEnded(1).at(1).answer.text.at(0), FakeText(4, 0, 3));
}

TEST_F(EdgeTest, ARefusalHasTheClientsName) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  v1::GenerateRequest hot = Prompt("x", 5);
  hot.mutable_sampling()->set_temperature(9);
  v1::GenerateRequest other = Prompt("x", 5);
  other.set_model("other");
  for (uint64_t id = 1; id <= 3; ++id) {
    v1::EdgeUp up = Open(id, id == 1 ? hot : other);
    if (id < 3) up.mutable_opens(0)->set_client_request_id("mine-" + std::to_string(id));
    ASSERT_TRUE(stream_->Write(up));
  }
  const auto outcomes = ReadUntilEnded(3);
  EXPECT_EQ(outcomes.at(1).error->request_id(), "mine-1");
  EXPECT_EQ(outcomes.at(2).error->request_id(), "mine-2");
  EXPECT_TRUE(outcomes.at(3).error->request_id().starts_with("req-"));
}

TEST_F(EdgeTest, AnEchoComesBeforeTheAnswerAndAlone) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  Connect();
  for (uint64_t id = 1; id <= 4; ++id) {
    v1::GenerateRequest request = Prompt("hello", id == 2 ? 0 : 5, 4);
    request.set_echo(id != 4);
    if (id == 3) request.mutable_sampling()->set_logprobs(1);
    if (id == 4) request.mutable_sampling()->set_max_tokens(0);
    ASSERT_TRUE(stream_->Write(Open(id, request)));
  }
  const auto outcomes = ReadUntilEnded(4);
  EXPECT_EQ(outcomes.at(1).answer.text.at(0), "hello" + FakeText(4, 0, 5));
  EXPECT_EQ(outcomes.at(2).answer.text.at(0), "hello");
  EXPECT_EQ(outcomes.at(2).answer.finish.at(0), "length");
  EXPECT_EQ(outcomes.at(2).answer.usage->output_tokens(), 0u);
  EXPECT_EQ(outcomes.at(3).error->param(), "echo");
  EXPECT_EQ(outcomes.at(4).error->param(), "max_tokens");
  ExpectLedgersBalance();
}

TEST_F(EdgeTest, AGatewayThatDoesNotReadIsCutOffNotBuffered) {
  FakeWorker worker;
  model_.Write("config.json", R"({"vocab_size":260,"max_position_embeddings":1000000})");
  options_.edge.pending_bytes_max = 256 << 10;
  StartRouter({&worker}, 1);
  Connect();
  v1::GenerateRequest request = Prompt("x", 1'000'000);
  request.mutable_sampling()->set_n(128);
  ASSERT_TRUE(stream_->Write(Open(1, request)));
  ASSERT_TRUE(worker.WaitSubmits(128));
  // Nothing is read; the worker never stops of itself.
  EXPECT_TRUE(WaitStatus([](const auto& page) {
    return page["ledgers"]["requests"]["aborted"] == 1 && page["sequences"]["live"] == 0;
  }));
  EXPECT_TRUE(worker.WaitHeld(0));
  while (stream_->Read(&down_)) {
  }
  EXPECT_FALSE(stream_->Finish().ok());
  ExpectLedgersBalance();
}

}  // namespace
}  // namespace choir
