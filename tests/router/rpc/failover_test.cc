#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "tests/router/rpc/router_fixture.h"

namespace choir {
namespace {

class FailoverTest : public RouterFixture {
 protected:
  // Asks in the background; the answer is there after Join.
  void Ask(const v1::GenerateRequest& request) {
    client_ = std::thread([this, request] { answer_ = Generate(request); });
  }
  const Answer& Join() {
    client_.join();
    return answer_;
  }
  ~FailoverTest() override {
    if (client_.joinable()) client_.join();
  }

  std::thread client_;
  Answer answer_;
};

TEST_F(FailoverTest, AKilledWorkersStreamGoesOnElsewhereWithTheSameText) {
  FakeWorker a({.worker_id = "g0r0"});
  FakeWorker b({.worker_id = "g0r1"});
  a.Allow(17);
  b.Allow(0);
  StartRouter({&a, &b}, 2);
  Ask(Prompt("hello", 60, 5));
  ASSERT_TRUE(a.WaitAllowanceUsed());  // ties go to the smaller id
  a.Kill();
  ASSERT_TRUE(b.WaitSubmits(1));
  b.Allow(1000);
  const Answer& answer = Join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text.at(0), FakeText(5, 0, 60));
  EXPECT_EQ(answer.tokens.at(0), 60u);
  EXPECT_EQ(answer.usage->output_tokens(), 60u);
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, AStoppedRanksStreamGoesOnElsewhereOnceItsGroupSaysThatTheEpochIsOver) {
  FakeWorker stopped({.worker_id = "g0r0", .group = 0, .group_size = 2});
  FakeWorker mate({.worker_id = "g0r1", .group = 0, .group_size = 2});
  FakeWorker other({.worker_id = "g1r0", .group = 1, .group_size = 2});
  stopped.Allow(17);  // then it is silent, and its stream stays open
  mate.Allow(0);
  StartRouter({&stopped, &mate, &other}, 3);
  Ask(Prompt("hello", 60, 5));
  ASSERT_TRUE(stopped.WaitAllowanceUsed());  // ties go to the smaller id
  mate.SetState(false, false);
  mate.NewEpoch(true);
  const Answer& answer = Join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text.at(0), FakeText(5, 0, 60));
  EXPECT_TRUE(other.WaitSubmits(1));
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, AStreamWaitsForItsOnlyWorkerToComeBack) {
  FakeWorker worker;
  worker.Allow(10);
  StartRouter({&worker}, 1);
  Ask(Prompt("hello", 30, 1));
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  worker.Kill();
  ASSERT_TRUE(
      WaitStatus([](const auto& page) { return page["requests"]["waiting_for_a_rank"] == 1; }));
  worker.Allow(1000);
  worker.Start();
  const Answer& answer = Join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text.at(0), FakeText(1, 0, 30));
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, ANewEpochReplaysToldOrNot) {
  for (const bool tell : {true, false}) {
    FakeWorker worker;
    worker.Allow(9);
    options_.workers.clear();
    StartRouter({&worker}, 1);
    v1::GenerateRequest request = Prompt("hello", 30, 2);
    request.mutable_sampling()->set_n(2);
    Ask(request);
    ASSERT_TRUE(worker.WaitAllowanceUsed());
    worker.NewEpoch(tell);
    ASSERT_TRUE(worker.WaitSubmits(4));
    worker.Allow(1000);
    const Answer& answer = Join();
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    for (uint32_t i = 0; i < 2; ++i) EXPECT_EQ(answer.text.at(i), FakeText(2, i, 30));
    ExpectLedgersBalance();
    router_.reset();
  }
}

TEST_F(FailoverTest, ACancelReachesTheWorkerAndIsAcknowledged) {
  FakeWorker worker;
  worker.Allow(5);
  StartRouter({&worker}, 1);
  const auto context = Context();
  v1::GenerateRequest request = Prompt("x", 100);
  request.mutable_sampling()->set_n(4);
  const auto reader = inference_->Generate(context.get(), request);
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  ASSERT_TRUE(worker.WaitHeld(4));
  context->TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
  EXPECT_EQ(StatusPage()["ledgers"]["sequences"]["cancelled"], 4);
  EXPECT_EQ(StatusPage()["ledgers"]["requests"]["aborted"], 1);
}

TEST_F(FailoverTest, TheDeadlineEndsTheRequestAndFreesTheWorker) {
  FakeWorker worker;
  worker.Allow(0);
  options_.settings.request_timeout = std::chrono::milliseconds(300);
  StartRouter({&worker}, 1);
  auto context = std::make_unique<grpc::ClientContext>();  // without a deadline of its own
  context->AddMetadata("authorization", "Bearer " + key_.secret);
  const auto reader = inference_->Generate(context.get(), Prompt("x", 10));
  v1::GenerateEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(worker.WaitHeld(0));
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, ADrainingWorkerFinishesItsOwnAndGetsNothingNew) {
  FakeWorker a({.worker_id = "g0r0"});
  FakeWorker b({.worker_id = "g0r1"});
  a.Allow(3);
  StartRouter({&a, &b}, 2);
  Ask(Prompt("hello", 15, 4));
  ASSERT_TRUE(a.WaitAllowanceUsed());
  a.SetState(true, /*draining=*/true);
  WaitReady(1);
  EXPECT_EQ(Generate(Prompt("hello", 10, 9)).text.at(0), FakeText(9, 0, 10));
  a.Allow(1000);
  EXPECT_EQ(Join().text.at(0), FakeText(4, 0, 15));
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, AStrangerIsRefusedByName) {
  const FakeWorker good({.worker_id = "g0r0"});
  const FakeWorker old({.worker_id = "g0r1", .protocol_version = 99});
  const FakeWorker small({.worker_id = "g0r2", .vocab_size = 100});
  StartRouter({&good, &old, &small}, 1);
  ASSERT_TRUE(WaitStatus([](const nlohmann::json& page) {
    size_t n = 0;
    for (const auto& worker : page["workers"]) n += worker["state"] == "refused";
    return n == 2;
  })) << StatusPage().dump(1);
  const nlohmann::json page = StatusPage();  // kept: a loop over a part of it does not keep it
  for (const auto& worker : page["workers"]) {
    if (worker["state"] != "refused") continue;
    const std::string reason = worker["reason"];
    EXPECT_NE(reason.find(worker["worker"].get<std::string>()), std::string::npos) << reason;
  }
  EXPECT_TRUE(Generate(Prompt("x", 2)).status.ok());
}

TEST_F(FailoverTest, AWorkerThatSendsGarbageIsCutOffAndNamed) {
  for (const int32_t bad : {-7, 1'000'000}) {
    FakeWorker broken({.worker_id = "g0r0", .bad_token = bad});
    FakeWorker good({.worker_id = "g0r1"});
    options_.workers.clear();
    StartRouter({&broken, &good}, 2);
    const Answer answer = Generate(Prompt("hello", 20, 5));  // ties go to the smaller id
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.text.at(0), FakeText(5, 0, 20));
    ExpectLedgersBalance();
    router_.reset();
  }
}

TEST_F(FailoverTest, AWorkerThatSendsButGetsNowhereIsCutOffAndItsBreakerOpens) {
  FakeWorker stuck({.worker_id = "g0r0"});
  FakeWorker good({.worker_id = "g0r1"});
  stuck.Allow(17);
  options_.settings.worker_stall_timeout = std::chrono::seconds(2);
  options_.settings.breaker.open_for = std::chrono::hours(1);
  StartRouter({&stuck, &good}, 2);
  Ask(Prompt("hello", 60, 5));
  ASSERT_TRUE(stuck.WaitAllowanceUsed());  // ties go to the smaller id
  EXPECT_TRUE(WaitStatus([&](const nlohmann::json& page) {
    stuck.SendLoad();
    const auto& workers = page["workers"];
    return std::any_of(workers.begin(), workers.end(), [](const nlohmann::json& worker) {
      return worker["worker"] == "g0r0" && worker["breaker"] == "open";
    });
  })) << StatusPage().dump(1);
  const Answer& answer = Join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text.at(0), FakeText(5, 0, 60));
  // It comes back, is ready, and is given nothing all the same.
  WaitReady(2);
  stuck.Allow(1000);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Generate(Prompt("x", 3)).status.ok());
  EXPECT_FALSE(stuck.WaitSubmits(2, std::chrono::milliseconds(0)));
  EXPECT_NE(router_->MetricsText().find(R"(choir_worker_state{state="open",worker="g0r0"} 1)"),
            std::string::npos);
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, AnOpenBreakerTriesOneSequenceAndClosesWithItsFirstToken) {
  FakeWorker worker({.worker_id = "g0r0"});
  worker.LoseSubmits(true);
  options_.settings.breaker = {.failures = 1, .open_for = std::chrono::milliseconds(100)};
  StartRouter({&worker}, 1);
  Ask(Prompt("hello", 20, 5));
  ASSERT_TRUE(worker.WaitSubmits(3));  // the first and two that were tried
  worker.LoseSubmits(false);
  const Answer& answer = Join();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text.at(0), FakeText(5, 0, 20));
  EXPECT_EQ(StatusPage()["workers"][0]["breaker"], "closed");
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, WhoWaitedForAHalfOpenBreakerGoesOnWhenItCloses) {
  FakeWorker worker({.worker_id = "g0r0"});
  worker.LoseSubmits(true);
  options_.settings.breaker = {.failures = 1, .open_for = std::chrono::milliseconds(100)};
  StartRouter({&worker}, 1);
  Ask(Prompt("hello", 20, 5));
  ASSERT_TRUE(worker.WaitSubmits(1));
  worker.Allow(0);
  worker.LoseSubmits(false);
  ASSERT_TRUE(worker.WaitHeld(1));  // tried
  Answer second;
  std::thread other([&] { second = Generate(Prompt("hello", 20, 6)); });
  EXPECT_TRUE(WaitStatus(
      [](const auto& page) { return page["admission"]["classes"]["default"]["waiting"] == 1; }));
  worker.Allow(1000);
  other.join();
  EXPECT_EQ(second.text[0], FakeText(6, 0, 20)) << second.status.error_message();
  EXPECT_EQ(Join().text.at(0), FakeText(5, 0, 20));
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, WithoutABudgetALostRequestFailsBeforeItsFirstTokenAndOnlyThen) {
  FakeWorker worker({.worker_id = "g0r0"});
  options_.settings.retry = {.ratio = 0, .min = 0};
  worker.Allow(0);
  StartRouter({&worker}, 1);
  Ask(Prompt("hello", 20, 5));
  ASSERT_TRUE(worker.WaitSubmits(1));
  worker.NewEpoch(true);
  EXPECT_EQ(Join().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(answer_.status.error_message().find("retry budget"), std::string::npos);
  WaitReady(1);  // in the new epoch
  answer_ = {};
  worker.Allow(4);
  Ask(Prompt("hello", 20, 5));
  ASSERT_TRUE(worker.WaitAllowanceUsed());
  worker.NewEpoch(true);
  worker.Allow(1000);
  EXPECT_EQ(Join().text.at(0), FakeText(5, 0, 20));
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, WhatNoListNamesIsCancelledAndCounted) {
  FakeWorker worker({.worker_id = "g0r0"});
  worker.Allow(0);
  options_.settings.reconcile_interval = std::chrono::milliseconds(100);
  StartRouter({&worker}, 1);
  Ask(Prompt("hello", 20, 5));
  ASSERT_TRUE(worker.WaitHeld(1));
  worker.AddGhost(77'000);
  worker.AddGhost(77'001);
  ASSERT_TRUE(worker.WaitHeld(1));  // its own stays
  worker.Allow(1000);
  EXPECT_EQ(Join().text.at(0), FakeText(5, 0, 20));
  EXPECT_TRUE(WaitStatus([&](const auto&) {
    return router_->MetricsText().find("choir_ghost_sequences_total 2") != std::string::npos;
  })) << router_->MetricsText();
  ExpectLedgersBalance();
}

TEST_F(FailoverTest, TheWorkersFileIsFollowed) {
  const FakeWorker a({.worker_id = "g0r0"});
  const FakeWorker b({.worker_id = "g0r1"});
  options_.workers_file = model_.dir() + "/workers.json";
  model_.Write("workers.json", "[\"" + a.address() + "\"]");
  StartRouter({}, 1);
  model_.Write("workers.json", R"({"workers":[{"address":")" + a.address() + R"("},{"address":")" +
                                   b.address() + "\"}]}");
  WaitReady(2);
  model_.Write("workers.json", "[\"" + b.address() + "\"]");
  WaitReady(1);
  EXPECT_EQ(StatusPage()["workers"][0]["worker"], "g0r1");
  EXPECT_TRUE(Generate(Prompt("x", 2)).status.ok());
}

TEST_F(FailoverTest, ManyStreamsSurviveARainOfKills) {
  FakeWorker a({.worker_id = "g0r0"});
  FakeWorker b({.worker_id = "g0r1"});
  StartRouter({&a, &b}, 2);
  std::vector<std::thread> clients;
  std::vector<Answer> answers(16);
  for (size_t i = 0; i < answers.size(); ++i) {
    clients.emplace_back(
        [&, i] { answers[i] = Generate(Prompt("hello", 150, static_cast<int64_t>(i))); });
  }
  for (int round = 0; round < 4; ++round) {
    FakeWorker& victim = round % 2 == 0 ? a : b;
    ASSERT_TRUE(victim.WaitSubmits(1));
    victim.Kill();
    victim.Start();
    WaitReady(2);
  }
  for (std::thread& client : clients) client.join();
  for (size_t i = 0; i < answers.size(); ++i) {
    ASSERT_TRUE(answers[i].status.ok()) << answers[i].status.error_message();
    EXPECT_EQ(answers[i].text.at(0), FakeText(i, 0, 150)) << i;
  }
  ExpectLedgersBalance();
}

// Of files and threads of this process, where router and worker both live.
size_t Entries(const char* folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST_F(FailoverTest, ConnectionsThatWereLostLeaveNothingOpen) {
  FakeWorker worker;
  StartRouter({&worker}, 1);
  const auto lose = [&](int times) {
    for (int i = 0; i < times; ++i) {
      worker.Kill();
      WaitReady(0);
      worker.Start();
      WaitReady(1);
      EXPECT_TRUE(Generate(Prompt("x", 2)).status.ok());
    }
  };
  lose(3);
  const size_t files = Entries("/proc/self/fd"), threads = Entries("/proc/self/task");
  lose(20);
  EXPECT_LT(Entries("/proc/self/fd"), files + 10);
  EXPECT_LT(Entries("/proc/self/task"), threads + 10);
}

}  // namespace
}  // namespace choir
