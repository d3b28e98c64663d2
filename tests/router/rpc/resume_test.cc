// Streams that outlive their gateway, at the router's edge.
#include "router/audit/audit_verify.h"
#include "tests/router/rpc/router_fixture.h"
#include "tests/support/temp_dir.h"

namespace choir {
namespace {

// One gateway's stream.
class Gateway {
 public:
  Gateway(v1::Edge::Stub* edge, const std::string& bearer) : bearer_(bearer) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = edge->Connect(&context_);
    v1::EdgeUp up;
    up.mutable_hello()->set_protocol_version(kProtocolVersion);
    up.mutable_hello()->set_gateway("gw");
    stream_->Write(up);
  }
  ~Gateway() {
    if (!gone_) Kill();
  }
  // As by kill -9.
  void Kill() {
    context_.TryCancel();
    while (stream_->Read(&down_)) {
    }
    stream_->Finish();
    gone_ = true;
  }
  void Open(const v1::GenerateRequest& request, const std::string& name) {
    v1::EdgeUp up;
    v1::EdgeOpen* open = up.add_opens();
    open->set_id(1);
    open->set_bearer(bearer_);
    open->set_client_request_id(name);
    open->set_resume_state("gateways' own");
    *open->mutable_generate() = request;
    stream_->Write(up);
  }
  void Attach(const std::string& name, std::optional<uint32_t> tokens) {
    v1::EdgeUp up;
    v1::EdgeOpen* open = up.add_opens();
    open->set_id(1);
    open->set_bearer(bearer_);
    open->mutable_attach()->set_request_id(name);
    if (tokens) {
      open->mutable_attach()->set_choices(1);
      open->mutable_attach()->add_positions()->set_tokens(*tokens);
    }
    stream_->Write(up);
  }
  void Resume(const v1::GenerateRequest& request, const std::string& name,
              const v1::EdgeResumeChoice& choice) {
    v1::EdgeUp up;
    v1::EdgeOpen* open = up.add_opens();
    open->set_id(1);
    open->set_bearer(bearer_);
    open->mutable_resume()->set_request_id(name);
    open->mutable_resume()->set_audit_receipt("log-1:1");
    open->mutable_resume()->set_seed(5);
    *open->mutable_resume()->add_choices() = choice;
    *open->mutable_generate() = request;
    stream_->Write(up);
  }
  void Cancel() {
    v1::EdgeUp up;
    up.add_cancels()->set_id(1);
    stream_->Write(up);
  }
  // Reads until the condition holds or the request has ended.
  template <typename Condition>
  void Read(Condition condition) {
    while (!done && !error && !condition() && stream_->Read(&down_)) {
      for (const v1::EdgeEvent& event : down_.events()) {
        if (event.has_accepted()) accepted = event.accepted();
        if (event.has_delta()) answer.Add(event.delta());
        if (event.has_error()) error = event.error();
        if (event.has_done()) answer.usage = event.done().usage();
        done = done || event.has_done();
      }
    }
  }
  void ReadToEnd() {
    Read([] { return false; });
  }

  std::optional<v1::EdgeAccepted> accepted;
  Answer answer;
  std::optional<v1::EdgeError> error;
  bool done = false;

 private:
  const std::string bearer_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::EdgeUp, v1::EdgeDown>> stream_;
  v1::EdgeDown down_;
  bool gone_ = false;
};

class ResumeTest : public RouterFixture {
 protected:
  std::unique_ptr<Gateway> Connect() { return std::make_unique<Gateway>(edge_.get(), key_.secret); }
  uint32_t StatusOfAttach(const std::string& bearer, const std::string& name) {
    Gateway gateway(edge_.get(), bearer);
    gateway.Attach(name, std::nullopt);
    gateway.ReadToEnd();
    return gateway.error ? gateway.error->http() : 200;
  }
  void KeepAudit() {
    options_.audit.store = {.dir = dir_.path() + "/audit", .keys_dir = dir_.path() + "/keys"};
  }
  // The intents on record, with what they are named; ends the router.
  std::vector<nlohmann::json> Intents() {
    router_->Stop();
    std::vector<nlohmann::json> intents;
    const auto verdict = VerifyAudit(options_.audit.store.dir, "", [&](const nlohmann::json& r) {
      if (r["phase"] == "intent") intents.push_back(r);
    });
    EXPECT_TRUE(verdict.ok() && verdict->intact);
    return intents;
  }
  static v1::EdgeResumeChoice Delivered(const std::string& text) {
    v1::EdgeResumeChoice choice;
    for (const char c : text) choice.add_token_ids(static_cast<uint8_t>(c));
    choice.set_text_bytes(text.size());
    return choice;
  }
  const TempDir dir_;
};

// On record under an id of ours, with the name that its client has beside it.
void ExpectMade(const nlohmann::json& record, const std::string& name) {
  EXPECT_TRUE(record["request_id"].get<std::string>().starts_with("req-")) << record;
  EXPECT_EQ(record.value("client_request_id", ""), name);
}

TEST_F(ResumeTest, AStreamGoesOnWithoutItsGatewayAndIsTakenUp) {
  FakeWorker worker;
  worker.Allow(10);
  StartRouter({&worker}, 1);
  auto first = Connect();
  first->Open(Prompt("hello", 60, 5), "mine");
  first->Read([&] { return first->answer.tokens[0] == 10; });
  EXPECT_TRUE(first->accepted->resume_state().empty());
  first->Kill();
  worker.Allow(20);
  ASSERT_TRUE(worker.WaitAllowanceUsed());  // nobody cancelled it
  auto second = Connect();
  second->Attach("mine", 7);  // its client had less than its gateway
  second->Read([&] { return second->answer.tokens[0] == 23; });
  EXPECT_EQ(second->accepted->request_id(), "mine");
  EXPECT_EQ(second->accepted->resume_state(), "gateways' own");
  EXPECT_EQ(second->accepted->audit_receipt(), first->accepted->audit_receipt());
  worker.Allow(1000);
  second->ReadToEnd();
  ASSERT_TRUE(second->done);
  EXPECT_EQ(FakeText(5, 0, 7) + second->answer.text[0], FakeText(5, 0, 60));
  EXPECT_EQ(second->answer.usage->output_tokens(), 60u);
  EXPECT_EQ(second->answer.finish[0], "length");
  ExpectLedgersBalance();
}

TEST_F(ResumeTest, AnEndIsKeptUntilTheClientHasIt) {
  const FakeWorker worker;
  StartRouter({&worker}, 1);
  auto first = Connect();
  first->Open(Prompt("hello", 20, 5), "mine");
  first->ReadToEnd();
  ASSERT_TRUE(first->done);
  first->Kill();  // it never said that its client has the end
  auto second = Connect();
  second->Attach("mine", std::nullopt);
  second->ReadToEnd();
  ASSERT_TRUE(second->done);
  EXPECT_EQ(second->answer.text[0], FakeText(5, 0, 20));
  second->Cancel();
  EXPECT_TRUE(WaitStatus([](const auto& page) { return page["requests"]["ends_kept"] == 0; }));
  EXPECT_EQ(StatusOfAttach(key_.secret, "mine"), 404u);
  ExpectLedgersBalance();
  EXPECT_EQ(StatusPage()["ledgers"]["requests"]["finished"], 1);
}

TEST_F(ResumeTest, ItIsTakenFromAGatewayThatNobodyKnowsToBeGone) {
  FakeWorker worker;
  worker.Allow(10);
  StartRouter({&worker}, 1);
  auto first = Connect();
  first->Open(Prompt("hello", 30, 5), "mine");
  first->Read([&] { return first->answer.tokens[0] == 10; });
  auto second = Connect();
  second->Attach("mine", 10);
  second->Read([&] { return second->accepted.has_value(); });
  first->ReadToEnd();
  EXPECT_EQ(first->error->http(), 499u);
  first->Cancel();  // of what is no longer its own
  first->Kill();
  worker.Allow(1000);
  second->ReadToEnd();
  ASSERT_TRUE(second->done);
  EXPECT_EQ(FakeText(5, 0, 10) + second->answer.text[0], FakeText(5, 0, 30));
  ExpectLedgersBalance();
}

TEST_F(ResumeTest, OnlyItsTenantTakesItUp) {
  FakeWorker worker;
  worker.Allow(10);
  const NewKey other = MakeKey("other", Clock::Real());
  ASSERT_TRUE(SaveKeys(options_.identity.keys_file, {key_.record, other.record}).ok());
  StartRouter({&worker}, 1);
  auto first = Connect();
  first->Open(Prompt("hello", 30, 5), "mine");
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  first->Kill();
  EXPECT_EQ(StatusOfAttach(other.secret, "mine"), 404u);
  EXPECT_EQ(StatusOfAttach("ck-nobody", "mine"), 401u);
  EXPECT_EQ(StatusOfAttach(key_.secret, "nothing"), 404u);
  worker.Allow(1000);
  EXPECT_EQ(StatusOfAttach(key_.secret, "mine"), 200u);
}

TEST_F(ResumeTest, WhatNobodyTakesUpIsCancelled) {
  FakeWorker worker;
  worker.Allow(10);
  options_.settings.resume_grace = std::chrono::milliseconds(200);
  StartRouter({&worker}, 1);
  auto first = Connect();
  first->Open(Prompt("hello", 30, 5), "mine");
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  first->Kill();
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
  EXPECT_EQ(StatusPage()["ledgers"]["requests"]["aborted"], 1);
  EXPECT_EQ(StatusOfAttach(key_.secret, "mine"), 404u);
}

TEST_F(ResumeTest, WithoutAGraceItGoesWithItsGateway) {
  FakeWorker worker;
  worker.Allow(10);
  options_.settings.resume_grace = std::chrono::seconds(0);
  StartRouter({&worker}, 1);
  auto first = Connect();
  first->Open(Prompt("hello", 30, 5), "mine");
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  first->Kill();
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
}

TEST_F(ResumeTest, OnlySoManyEndsAreKept) {
  const FakeWorker worker;
  options_.settings.resume_streams_max = 2;
  StartRouter({&worker}, 1);
  std::vector<std::unique_ptr<Gateway>> gateways;
  for (const char* name : {"a", "b", "c"}) {
    gateways.push_back(Connect());
    gateways.back()->Open(Prompt("hello", 5, 5), name);
    gateways.back()->ReadToEnd();
  }
  EXPECT_EQ(StatusOfAttach(key_.secret, "a"), 404u);
  EXPECT_EQ(StatusOfAttach(key_.secret, "b"), 200u);
  EXPECT_EQ(StatusOfAttach(key_.secret, "c"), 200u);
}

TEST_F(ResumeTest, AStreamIsFoundByANameThatWasGivenBefore) {
  FakeWorker worker;
  KeepAudit();
  StartRouter({&worker}, 1);
  auto before = Connect();
  before->Open(Prompt("hello", 5, 5), "mine");
  before->ReadToEnd();
  before->Cancel();  // its client has the end
  before.reset();
  ASSERT_TRUE(
      WaitStatus([](const nlohmann::json& page) { return page["requests"]["ends_kept"] == 0; }));
  auto first = Connect();
  first->Open(Prompt("hello", 20, 5), "mine");
  first->ReadToEnd();
  EXPECT_EQ(first->accepted->request_id(), "mine");
  auto second = Connect();
  second->Attach("mine", 7);
  second->ReadToEnd();
  ASSERT_TRUE(second->done);
  EXPECT_EQ(second->accepted->request_id(), "mine");
  EXPECT_EQ(FakeText(5, 0, 7) + second->answer.text[0], FakeText(5, 0, 20));
  const auto intents = Intents();
  ASSERT_EQ(intents.size(), 2u);
  EXPECT_EQ(intents[0]["request_id"], "mine");
  ExpectMade(intents[1], "mine");
}

TEST_F(ResumeTest, WhatGoesOnHereHasAnIdOfItsOwnOnRecord) {
  const FakeWorker worker;
  KeepAudit();
  StartRouter({&worker}, 1);
  auto before = Connect();
  before->Open(Prompt("hello", 5, 5), "mine");
  before->ReadToEnd();
  before->Cancel();
  ASSERT_TRUE(
      WaitStatus([](const nlohmann::json& page) { return page["requests"]["ends_kept"] == 0; }));
  const std::string whole = FakeText(5, 0, 30);
  const auto go_on = [&](const std::string& name) {
    auto gateway = Connect();
    gateway->Resume(Prompt("hello", 30), name, Delivered(whole.substr(0, 10)));
    gateway->ReadToEnd();
    ASSERT_TRUE(gateway->done);
    EXPECT_EQ(gateway->accepted->request_id(), name);
    EXPECT_EQ(gateway->answer.text[0], whole.substr(10));
  };
  go_on("mine");   // another request of this name is on record here
  go_on("other");  // here it is new, but may come back
  const std::string made = "req-0123456789abcdef01234567";
  go_on(made);
  const auto intents = Intents();
  ASSERT_EQ(intents.size(), 4u);
  EXPECT_EQ(intents[0]["request_id"], "mine");
  ExpectMade(intents[1], "mine");
  ExpectMade(intents[2], "other");
  ExpectMade(intents[3], made);
  EXPECT_NE(intents[3]["request_id"], made);
  for (size_t i = 1; i < 4; ++i) EXPECT_EQ(intents[i]["continues"], "log-1:1");
}

TEST_F(ResumeTest, TenantsHaveNamesOfTheirOwn) {
  FakeWorker worker;
  worker.Allow(0);
  const NewKey other = MakeKey("other", Clock::Real());
  ASSERT_TRUE(SaveKeys(options_.identity.keys_file, {key_.record, other.record}).ok());
  KeepAudit();
  StartRouter({&worker}, 1);
  std::vector<std::unique_ptr<Gateway>> gateways;
  for (const auto& [key, seed] : {std::pair(key_.secret, 5), std::pair(other.secret, 6)}) {
    gateways.push_back(std::make_unique<Gateway>(edge_.get(), key));
    gateways.back()->Open(Prompt("hello", 30, seed), "mine");
    ASSERT_TRUE(worker.WaitHeld(gateways.size()));
    worker.Allow(std::ssize(gateways));  // one for each
    gateways.back()->Read([&] { return gateways.back()->answer.tokens[0] > 0; });
    ASSERT_EQ(gateways.back()->answer.tokens[0], 1);
    EXPECT_EQ(gateways.back()->accepted->request_id(), "mine");
  }
  worker.Allow(1000);
  for (const auto& [key, seed] : {std::pair(key_.secret, 5), std::pair(other.secret, 6)}) {
    Gateway again(edge_.get(), key);
    again.Attach("mine", std::nullopt);
    again.ReadToEnd();
    ASSERT_TRUE(again.done);
    EXPECT_EQ(again.answer.text[0], FakeText(static_cast<uint64_t>(seed), 0, 30));
  }
  gateways.clear();
  const auto intents = Intents();
  ASSERT_EQ(intents.size(), 2u);
  EXPECT_EQ(intents[0]["request_id"], "mine");
  ExpectMade(intents[1], "mine");
}

TEST_F(ResumeTest, AGatewayThatComesBackBeginsAnewUnderTheSameName) {
  FakeWorker worker;
  worker.Allow(10);
  StartRouter({&worker}, 1);
  auto first = Connect();
  first->Open(Prompt("hello", 30, 5), "mine");
  first->Read([&] { return first->answer.tokens[0] == 10; });
  first->Kill();
  ASSERT_TRUE(
      WaitStatus([](const nlohmann::json& page) { return page["requests"]["detached"] == 1; }));
  auto second = Connect();
  const std::string whole = FakeText(5, 0, 30);
  second->Resume(Prompt("hello", 30), "mine", Delivered(whole.substr(0, 10)));
  worker.Allow(1000);
  second->ReadToEnd();
  ASSERT_TRUE(second->done);
  EXPECT_EQ(second->accepted->request_id(), "mine");
  EXPECT_EQ(second->answer.text[0], whole.substr(10));
  ExpectLedgersBalance();
  EXPECT_EQ(StatusPage()["ledgers"]["requests"]["aborted"], 1);
}

}  // namespace
}  // namespace choir
