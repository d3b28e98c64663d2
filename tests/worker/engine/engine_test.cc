#include "worker/engine/engine.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "tests/support/engine_harness.h"

namespace choir {
namespace {

// Two layers of 4 values a token in all, f32.
constexpr uint64_t kBytesPerToken = 16;

EngineOptions SmallOptions() {
  EngineOptions options;
  options.step_tokens = 16;
  options.sequences_max = 8;
  options.block_tokens = 4;
  options.kv_bytes = kBytesPerToken * 4 * 400;
  return options;
}

std::vector<SequenceRequest> ManyRequests(int count) {
  std::mt19937 rng(11);
  std::vector<SequenceRequest> requests;
  for (int i = 1; i <= count; ++i) {
    auto request = MakeRequest(static_cast<uint64_t>(i), 1 + static_cast<int32_t>(rng() % 50),
                               1 + static_cast<int32_t>(rng() % 30));
    request.sampling.temperature = i % 3 == 0 ? 0.0 : 0.9;
    if (i % 4 == 0) request.sampling.top_p = 0.8;
    if (i % 5 == 0) request.sampling.frequency_penalty = 0.5;
    if (i % 7 == 0) request.stop_token_ids = {3, 4, 5};
    request.priority = i % 2;
    requests.push_back(request);
  }
  return requests;
}

void ExpectAllAnswered(EngineHarness& harness, const std::vector<SequenceRequest>& requests) {
  for (const SequenceRequest& request : requests) {
    const Answer answer = harness.Wait(request.id.value());
    EXPECT_EQ(answer.tokens, FakeAnswer(request)) << "sequence " << request.id.value();
    EXPECT_EQ(answer.endings, 1);
  }
}

void ExpectNothingHeld(EngineHarness& harness) {
  harness.Stop();
  const EngineStats stats = harness.engine().stats();
  EXPECT_EQ(stats.kv_blocks_held, 0u);
  EXPECT_EQ(stats.kv_blocks_free + stats.kv_blocks_cached, stats.kv_blocks_total);
  EXPECT_EQ(stats.ledger_difference, 0);
  EXPECT_EQ(stats.load.running, 0u);
  EXPECT_EQ(stats.load.waiting, 0u);
  EXPECT_EQ(stats.load.waiting_tokens, 0u);
}

TEST(EngineTest, GivesTheSameTokensInABatchAsAlone) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  const auto requests = ManyRequests(60);
  for (const auto& request : requests) ASSERT_TRUE(harness.Submit(request).ok());
  ExpectAllAnswered(harness, requests);
  EXPECT_EQ(harness.engine().stats().preemptions, 0u);
  ExpectNothingHeld(harness);
}

TEST(EngineTest, GivesTheSameTokensWithAnyStepBudgetAndThreads) {
  for (const int64_t step_tokens : {1, 3, 7, 64}) {
    EngineOptions options = SmallOptions();
    options.step_tokens = step_tokens;
    options.num_threads = step_tokens == 7 ? 3 : 1;
    EngineHarness harness(options);
    harness.StartAlone();
    const auto requests = ManyRequests(20);
    for (const auto& request : requests) ASSERT_TRUE(harness.Submit(request).ok());
    ExpectAllAnswered(harness, requests);
  }
}

TEST(EngineTest, GivesTheSameTokensWhenItPreempts) {
  EngineOptions options = SmallOptions();
  options.kv_bytes = kBytesPerToken * 4 * 22;  // one of the longest and little more
  EngineHarness harness(options);
  harness.StartAlone();
  const auto requests = ManyRequests(60);
  for (const auto& request : requests) ASSERT_TRUE(harness.Submit(request).ok());
  ExpectAllAnswered(harness, requests);
  EXPECT_GT(harness.engine().stats().preemptions, 0u);
  ExpectNothingHeld(harness);
}

TEST(EngineTest, ContinuesAReplay) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  auto request = MakeRequest(1, 20, 24);
  request.sampling.presence_penalty = 0.7;
  const std::vector<int32_t> whole = FakeAnswer(request);
  for (size_t done = 0; done < whole.size(); ++done) {
    const std::vector<int32_t> committed(whole.begin(), whole.begin() + static_cast<long>(done));
    const uint64_t id = 100 + done;
    ASSERT_TRUE(harness.Submit(ReplayOf(request, id, committed)).ok());
    const Answer answer = harness.Wait(id);
    EXPECT_EQ(answer.tokens,
              std::vector<int32_t>(whole.begin() + static_cast<long>(done), whole.end()));
    EXPECT_EQ(answer.finish, Finish::kLength);
  }
}

TEST(EngineTest, EndsAReplayOfAWholeAnswerAtOnce) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  auto request = MakeRequest(1, 5, 4);
  ASSERT_TRUE(harness.Submit(ReplayOf(request, 2, FakeAnswer(request))).ok());
  EXPECT_EQ(harness.Wait(2).finish, Finish::kLength);
  request.stop_token_ids = {FakeAnswer(request)[1]};
  ASSERT_TRUE(harness.Submit(ReplayOf(request, 3, FakeAnswer(request))).ok());
  EXPECT_EQ(harness.Wait(3).finish, Finish::kStop);
  EXPECT_TRUE(harness.Now(3).tokens.empty());
}

TEST(EngineTest, EndsWithTheStopTokenAsLastToken) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  auto request = MakeRequest(1, 5, 20);
  const std::vector<int32_t> whole = FakeAnswer(request);
  request.stop_token_ids = {whole[7]};
  ASSERT_TRUE(harness.Submit(request).ok());
  const Answer answer = harness.Wait(1);
  EXPECT_EQ(answer.finish, Finish::kStop);
  EXPECT_EQ(answer.tokens.back(), whole[7]);
  EXPECT_EQ(answer.tokens, FakeAnswer(request));
}

TEST(EngineTest, EndsWithLengthAtTheEndOfTheContext) {
  const FakeModelOptions model = {.context_length = 32};
  EngineHarness harness(SmallOptions(), model);
  harness.StartAlone();
  ASSERT_TRUE(harness.Submit(MakeRequest(1, 30, 20)).ok());
  EXPECT_EQ(harness.Wait(1).tokens.size(), 2u);
  EXPECT_EQ(harness.Wait(1).finish, Finish::kLength);
  ASSERT_TRUE(harness.Submit(MakeRequest(2, 31, 20)).ok());
  EXPECT_EQ(harness.Wait(2).tokens.size(), 1u);
}

TEST(EngineTest, GivesLogprobsWhenAsked) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  auto request = MakeRequest(1, 5, 6);
  request.sampling.num_logprobs = 4;
  ASSERT_TRUE(harness.Submit(request).ok());
  const Answer answer = harness.Wait(1);
  ASSERT_EQ(answer.logprobs.size(), 6u);
  for (const SampledLogprob& l : answer.logprobs) {
    EXPECT_EQ(l.top.size(), 4u);
    EXPECT_LE(l.logprob, l.top[0].second);
  }
}

TEST(EngineTest, RefusesWhatIsWrongWithARequestAndSaysWhy) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  uint64_t id = 0;
  const auto refusal = [&](auto change) {
    auto request = MakeRequest(++id, 5, 5);
    change(request);
    EXPECT_TRUE(harness.Submit(request).ok());
    const Answer answer = harness.Wait(id);
    EXPECT_EQ(answer.finish, Finish::kRefused);
    EXPECT_TRUE(answer.tokens.empty());
    return answer.error;
  };
  using R = SequenceRequest&;
  EXPECT_NE(refusal([](R r) { r.tokens[2] = 50; }).find("token id 50 is not in 0..49"),
            std::string::npos);
  EXPECT_NE(refusal([](R r) { r.tokens[2] = -1; }).find("token id -1"), std::string::npos);
  EXPECT_NE(refusal([](R r) { r.tokens.clear(), r.num_prompt = 0; }).find("prompt has 0"),
            std::string::npos);
  EXPECT_NE(refusal([](R r) { r.num_prompt = 6; }).find("prompt has 6"), std::string::npos);
  EXPECT_NE(refusal([](R r) { r.max_tokens = 0; }).find("max_tokens 0"), std::string::npos);
  EXPECT_NE(refusal([](R r) { r.sampling.temperature = -1; }).find("temperature"),
            std::string::npos);
  EXPECT_NE(refusal([](R r) {
              r.sampling.logit_bias = {{50, 1.0f}};
            }).find("logit_bias"),
            std::string::npos);
  EXPECT_NE(refusal([](R r) {
              r.tokens.resize(4096), r.num_prompt = 4096;
            }).find("context length of 4096"),
            std::string::npos);
  EXPECT_NE(refusal([](R r) { r.max_tokens = 3000; }).find("needs 751 KV blocks"),
            std::string::npos);
}

TEST(EngineTest, CancelsInEveryState) {
  for (int at_forward = 0; at_forward < 12; ++at_forward) {
    EngineHarness* self = nullptr;
    int forwards = 0;
    // Sequence 1 decodes, 2 prefills for many steps, 3 waits for a seat.
    EngineOptions options = SmallOptions();
    options.sequences_max = 2;
    EngineHarness harness(options, {}, 1, [&](const ModelBatch&) {
      if (forwards++ != at_forward) return;
      for (const uint64_t id : {1, 2, 3, 77}) self->engine().Cancel(SequenceId(id));
    });
    self = &harness;
    ASSERT_TRUE(harness.Submit(MakeRequest(1, 4, 300)).ok());
    ASSERT_TRUE(harness.Submit(MakeRequest(2, 120, 300)).ok());
    ASSERT_TRUE(harness.Submit(MakeRequest(3, 4, 300)).ok());
    harness.StartAlone();
    for (const uint64_t id : {1, 2, 3}) {
      const Answer answer = harness.Wait(id);
      EXPECT_EQ(answer.finish, Finish::kCancelled) << "at forward " << at_forward;
    }
    EXPECT_LE(harness.Now(1).tokens.size(), static_cast<size_t>(at_forward + 1));
    // The engine still works, with all blocks.
    const auto next = MakeRequest(4, 40, 10);
    ASSERT_TRUE(harness.Submit(next).ok());
    EXPECT_EQ(harness.Wait(4).tokens, FakeAnswer(next));
    for (const uint64_t id : {1, 2, 3}) {
      EXPECT_EQ(harness.Now(id).endings, 1);
      EXPECT_EQ(harness.Now(id).updates_after_the_end, 0);
    }
    ExpectNothingHeld(harness);
  }
}

TEST(EngineTest, FreesTheBlocksOfACancelWithinOneStep) {
  EngineHarness* self = nullptr;
  std::vector<size_t> rows;
  EngineHarness harness(SmallOptions(), {}, 1, [&](const ModelBatch& batch) {
    rows.push_back(batch.tokens.size());
    if (rows.size() == 5) self->engine().Cancel(SequenceId(1));
  });
  self = &harness;
  ASSERT_TRUE(harness.Submit(MakeRequest(1, 4, 300)).ok());
  ASSERT_TRUE(harness.Submit(MakeRequest(2, 4, 20)).ok());
  harness.StartAlone();
  harness.Wait(2);
  EXPECT_EQ(rows[4], 2u);
  EXPECT_EQ(rows[5], 1u);  // the very next step goes without it
}

TEST(EngineTest, RefusesAtTheEdgeOfItsInbox) {
  EngineOptions options = SmallOptions();
  options.inbox_max = 2;
  EngineHarness harness(options);  // not running: nobody drains
  EXPECT_TRUE(harness.Submit(MakeRequest(1, 4, 4)).ok());
  EXPECT_TRUE(harness.Submit(MakeRequest(2, 4, 4)).ok());
  const Status status = harness.Submit(MakeRequest(3, 4, 4));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  harness.StartAlone();
  EXPECT_EQ(harness.Wait(1).finish, Finish::kLength);
  EXPECT_EQ(harness.Wait(2).finish, Finish::kLength);
  EXPECT_TRUE(harness.Submit(MakeRequest(3, 4, 4)).ok());
  EXPECT_EQ(harness.Wait(3).finish, Finish::kLength);
}

TEST(EngineTest, RefusesAtTheEdgeOfItsQueue) {
  EngineOptions options = SmallOptions();
  options.waiting_max = 3;
  EngineHarness harness(options);
  harness.Start();  // without an epoch sequences wait
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_TRUE(harness.Submit(MakeRequest(id, 4, 4)).ok());
  EXPECT_EQ(harness.Submit(MakeRequest(4, 4, 4)).code(), absl::StatusCode::kResourceExhausted);
  harness.engine().SetEpoch(MakeSingleCollectives(1));
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_EQ(harness.Wait(id).finish, Finish::kLength);
  for (uint64_t id = 5; id <= 7; ++id) {
    EXPECT_TRUE(harness.Submit(MakeRequest(id, 4, 4)).ok());
    EXPECT_EQ(harness.Wait(id).finish, Finish::kLength);
  }
}

TEST(EngineTest, StopEndsEverything) {
  EngineHarness harness(SmallOptions());
  harness.HoldAt(1, 3);
  harness.StartAlone();
  for (uint64_t id = 1; id <= 12; ++id) {
    ASSERT_TRUE(harness.Submit(MakeRequest(id, 10, 1000)).ok());
  }
  harness.WaitForTokens(1, 3);
  harness.engine().Stop();
  harness.Release();
  harness.Stop();
  for (uint64_t id = 1; id <= 12; ++id) {
    EXPECT_EQ(harness.Now(id).finish, Finish::kCancelled);
    EXPECT_EQ(harness.Now(id).endings, 1);
  }
  EXPECT_EQ(harness.Submit(MakeRequest(13, 4, 4)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(harness.num_failures(), 0u);
  ExpectNothingHeld(harness);
}

TEST(EngineTest, CountsWhatItDid) {
  EngineHarness harness(SmallOptions());
  harness.StartAlone();
  ASSERT_TRUE(harness.Submit(MakeRequest(1, 20, 5)).ok());
  harness.Wait(1);
  harness.Stop();
  const EngineStats stats = harness.engine().stats();
  EXPECT_EQ(stats.steps, 6u);  // 16 + 4 prompt tokens, then 4 decodes
  EXPECT_EQ(stats.step_tokens, 24u);
  EXPECT_GT(stats.last_step_wall, 1.6e9);
  EXPECT_EQ(stats.kv_blocks_total, 400u);
}

TEST(EngineTest, RefusesOptionsOutOfRange) {
  const auto make = [](auto change) {
    EngineOptions options = SmallOptions();
    change(options);
    return Engine::MakeWithModel(options, std::make_unique<FakeModel>(FakeModelOptions{}), nullptr,
                                 1, [](StepOutput) {})
        .status();
  };
  EXPECT_TRUE(make([](EngineOptions&) {}).ok());
  EXPECT_FALSE(make([](EngineOptions& o) { o.step_tokens = 0; }).ok());
  EXPECT_FALSE(make([](EngineOptions& o) { o.step_tokens = 65537; }).ok());
  EXPECT_FALSE(make([](EngineOptions& o) { o.context_length = 4097; }).ok());
  EXPECT_FALSE(make([](EngineOptions& o) { o.kv_bytes = 10; }).ok());
  EXPECT_FALSE(make([](EngineOptions& o) { o.inbox_max = 0; }).ok());
  EXPECT_FALSE(make([](EngineOptions& o) { o.num_threads = 0; }).ok());
}

}  // namespace
}  // namespace choir
