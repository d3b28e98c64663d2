#include "worker/self_test.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/fake_engine.h"

namespace choir {
namespace {

class SelfTestRunTest : public ::testing::Test {
 protected:
  SequenceRequest Last(size_t count) { return engine_.WaitForSubmits(count).rbegin()->second; }
  void Answer(SequenceId id, std::vector<int32_t> tokens, float logprob, Finish finish) {
    StepOutput output;
    output.updates.push_back({.id = SequenceId(5)});  // somebody else's
    output.updates.push_back(
        {.id = id, .tokens = std::move(tokens), .logprobs = {{logprob, {}}}, .finish = finish});
    run_.Look(&output, &engine_);
    EXPECT_EQ(output.updates.size(), 1u) << "its own update is taken out, others stay";
  }

  FakeEngine engine_;
  std::vector<Status> results_;
  SelfTestRun run_{3, [this](const Status& s) { results_.push_back(s); }};
};

TEST_F(SelfTestRunTest, AFiniteTokenPasses) {
  run_.Start(&engine_);
  const SequenceRequest request = Last(1);
  EXPECT_EQ(request.max_tokens, 1);
  for (const int32_t token : request.tokens) EXPECT_LT(token, 3);
  Answer(request.id, {1}, -0.5f, Finish::kLength);
  ASSERT_EQ(results_.size(), 1u);
  EXPECT_TRUE(results_[0].ok()) << results_[0];
}

TEST_F(SelfTestRunTest, AnythingElseFails) {
  run_.Start(&engine_);
  Answer(Last(1).id, {1}, std::nanf(""), Finish::kLength);
  run_.Start(&engine_);
  Answer(Last(2).id, {}, 0, Finish::kRefused);
  engine_.SetFull(true);
  run_.Start(&engine_);
  ASSERT_EQ(results_.size(), 3u);
  for (const Status& result : results_) EXPECT_FALSE(result.ok());
}

TEST_F(SelfTestRunTest, ATokenLostAtABorderIsAskedForAgainAndAForgottenOneIsNot) {
  run_.Start(&engine_);
  Answer(Last(1).id, {}, 0, Finish::kLost);
  EXPECT_TRUE(results_.empty());
  const SequenceId second = Last(2).id;
  run_.Forget();
  Answer(second, {}, 0, Finish::kLost);
  EXPECT_EQ(engine_.WaitForSubmits(2).size(), 2u);
  EXPECT_TRUE(results_.empty());
}

}  // namespace
}  // namespace choir
