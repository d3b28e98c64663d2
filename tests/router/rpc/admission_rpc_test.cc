// Admission over the public gRPC service: queues seen from outside, classes by metadata.
#include <gmock/gmock.h>

#include <deque>
#include <thread>

#include "tests/router/rpc/router_fixture.h"

namespace choir {
namespace {

class AdmissionRpcTest : public RouterFixture {
 protected:
  AdmissionRpcTest() {
    options_.followed.limits.admission.ahead = 0;
    for (ClassRules& rules : options_.followed.limits.admission.classes) rules.floor = {};
  }
  ~AdmissionRpcTest() override { Join(); }

  // Asks in the background with this class in its metadata.
  struct Call {
    std::unique_ptr<grpc::ClientContext> context;
    Answer answer;
    std::thread thread;
  };
  Call& Ask(const std::string& wanted = "") {
    Call& call = calls_.emplace_back();
    call.context = Context();
    if (!wanted.empty()) call.context->AddMetadata("choir-class", wanted);
    call.thread = std::thread([this, &call] {
      const auto reader = inference_->Generate(call.context.get(), Prompt("x", 3));
      v1::GenerateEvent event;
      while (reader->Read(&event)) call.answer.Add(event);
      call.answer.status = reader->Finish();
    });
    return call;
  }
  void Join() {
    for (Call& call : calls_) {
      if (call.thread.joinable()) call.thread.join();
    }
  }
  grpc::Status AskWith(const std::vector<std::pair<std::string, std::string>>& metadata) {
    const auto context = Context();
    for (const auto& [name, value] : metadata) context->AddMetadata(name, value);
    const auto reader = inference_->Generate(context.get(), Prompt("x", 3));
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
    }
    return reader->Finish();
  }
  testing::AssertionResult Reaches(const std::string& name, uint64_t running, uint64_t waiting) {
    if (WaitStatus([&](const nlohmann::json& page) {
          const auto& of = page["admission"]["classes"][name];
          return of["running"] == running && of["waiting"] == waiting;
        })) {
      return testing::AssertionSuccess();
    }
    return testing::AssertionFailure() << StatusPage()["admission"].dump(1);
  }

  std::deque<Call> calls_;
};

TEST_F(AdmissionRpcTest, WhatARankCannotRunWaitsHereAndRunsWhenAPlaceIsFree) {
  FakeWorker worker({.running_max = 2});
  worker.Allow(0);
  StartRouter({&worker}, 1);
  for (int i = 0; i < 5; ++i) Ask();
  ASSERT_TRUE(Reaches("default", 2, 3));
  ASSERT_TRUE(worker.WaitHeld(2));
  EXPECT_THAT(router_->MetricsText(), testing::HasSubstr("choir_queue_depth{class=\"default\"} 3"));
  worker.Allow(1000);
  Join();
  for (const Call& call : calls_) EXPECT_TRUE(call.answer.status.ok());
  ExpectLedgersBalance();
  const auto page = StatusPage();
  for (const char* ledger : {"permits", "admission_tokens"}) {
    EXPECT_EQ(page["ledgers"][ledger]["difference"], 0) << ledger;
  }
  EXPECT_EQ(page["ledgers"]["permits"]["there"], 0);
  EXPECT_EQ(page["ledgers"]["admission_tokens"]["outstanding"], 0);
}

TEST_F(AdmissionRpcTest, AClientThatLeavesWhileItWaitsLeavesNothingBehind) {
  FakeWorker worker({.running_max = 1});
  worker.Allow(0);
  StartRouter({&worker}, 1);
  Ask();
  ASSERT_TRUE(Reaches("default", 1, 0));
  Call& gone = Ask();
  ASSERT_TRUE(Reaches("default", 1, 1));
  gone.context->TryCancel();
  ASSERT_TRUE(Reaches("default", 1, 0));
  worker.Allow(100);
  Join();
  EXPECT_TRUE(calls_[0].answer.status.ok());
  ExpectLedgersBalance();
}

TEST_F(AdmissionRpcTest, WhatRanKeepsItsPlaceWhileItIsReplayed) {
  FakeWorker a({.worker_id = "g0r0", .running_max = 1});
  FakeWorker b({.worker_id = "g0r1", .running_max = 1});
  a.Allow(1);
  b.Allow(0);
  StartRouter({&a, &b}, 2);
  Ask();
  ASSERT_TRUE(a.WaitAllowanceUsed());
  Ask();
  ASSERT_TRUE(Reaches("default", 2, 0));
  Ask();
  ASSERT_TRUE(Reaches("default", 2, 1));
  a.Kill();
  ASSERT_TRUE(b.WaitHeld(2)) << "the lost one goes on there, beyond its seats";
  ASSERT_TRUE(Reaches("default", 2, 1));
  b.Allow(1000);
  Join();
  for (const Call& call : calls_) EXPECT_TRUE(call.answer.status.ok());
  ExpectLedgersBalance();
}

TEST_F(AdmissionRpcTest, MetadataLowersTheClassUnderEitherName) {
  FakeWorker worker({.running_max = 9});
  worker.Allow(0);
  StartRouter({&worker}, 1);
  Ask();
  ASSERT_TRUE(worker.WaitHeld(1));
  Ask("bulk");
  ASSERT_TRUE(worker.WaitHeld(2));
  ASSERT_TRUE(Reaches("bulk", 1, 0));
  const std::vector<int32_t> priorities = worker.priorities();
  ASSERT_EQ(priorities.size(), 2u);
  EXPECT_LT(priorities[0], priorities[1]) << "the worker keeps to the order of classes, too";
  worker.Allow(100);
  Join();
  EXPECT_TRUE(AskWith({{"x-choir-class", "bulk"}}).ok());
  EXPECT_TRUE(AskWith({{"x-choir-class", "bulk"}, {"choir-class", "bulk"}}).ok());
  EXPECT_THAT(router_->MetricsText(),
              testing::HasSubstr("choir_admission_wait_seconds_count{class=\"bulk\"} 3"));
}

TEST_F(AdmissionRpcTest, MetadataNeitherRaisesTheClassNorNamesTwo) {
  FakeWorker worker;
  StartRouter({&worker}, 1);
  for (const char* higher : {"interactive", "system"}) {
    const grpc::Status raised = AskWith({{"choir-class", higher}});
    EXPECT_EQ(raised.error_code(), grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_THAT(raised.error_message(), testing::HasSubstr("class is 'default'"));
  }
  for (const auto& bad : std::vector<std::vector<std::pair<std::string, std::string>>>{
           {{"choir-class", "gold"}},
           {{"choir-class", ""}},
           {{"choir-class", "bulk"}, {"x-choir-class", "default"}},
           {{"choir-class", "bulk"}, {"choir-class", "default"}}}) {
    EXPECT_EQ(AskWith(bad).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(AdmissionRpcTest, AQueueThatIsFullRefusesWithAHint) {
  options_.followed.limits.admission.of(AdmissionClass::kDefault).queue = 1;
  FakeWorker worker({.running_max = 1});
  worker.Allow(0);
  StartRouter({&worker}, 1);
  Ask(), Ask();
  ASSERT_TRUE(Reaches("default", 1, 1));
  const grpc::Status refused = AskWith({});
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), testing::HasSubstr("router.admission.default.queue"));
  EXPECT_THAT(
      router_->MetricsText(),
      testing::HasSubstr("choir_admission_refused_total{class=\"default\",reason=\"queue\"} 1"));
  worker.Allow(100);
  Join();
}

// The one of an empty queue is told so: this prompt does not fit the context.
TEST_F(AdmissionRpcTest, WhatTheFullQueueRefusesIsNotReadBefore) {
  options_.followed.limits.admission.of(AdmissionClass::kDefault).queue = 0;
  FakeWorker worker({.running_max = 1});
  worker.Allow(0);
  StartRouter({&worker}, 1);
  const v1::GenerateRequest too_long = Prompt(std::string(100'000, 'x'), 1);
  EXPECT_EQ(Generate(too_long).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto read = [this] {
    const std::string text = router_->MetricsText();
    constexpr char kCount[] = "choir_overhead_seconds_count{stage=\"text\"} ";
    const size_t at = text.find(kCount);
    return at == std::string::npos ? "" : text.substr(at, text.find('\n', at) - at);
  };
  Ask();
  ASSERT_TRUE(Reaches("default", 1, 0));
  const std::string before = read();
  ASSERT_FALSE(before.empty());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Generate(too_long).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  EXPECT_EQ(read(), before);
  worker.Allow(100);
  Join();
}

TEST_F(AdmissionRpcTest, ATenantsClassAndWeightComeFromTheConfiguration) {
  options_.followed.limits.tenants["acme"] = {.admission_class = AdmissionClass::kBulk,
                                              .weight = 3};
  FakeWorker worker({.running_max = 1});
  worker.Allow(0);
  StartRouter({&worker}, 1);
  Ask();
  ASSERT_TRUE(Reaches("bulk", 1, 0));
  EXPECT_EQ(AskWith({{"choir-class", "default"}}).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  worker.Allow(100);
  Join();
}

}  // namespace
}  // namespace choir
