#include "router/relay/relay.h"

#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"

namespace choir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Answers with what the test put there; remembers what was asked.
class ScriptedPlacer : public Placer {
 public:
  std::optional<Placement> Place(const PlaceQuery& query) override {
    queries.push_back(query);
    for (const Placement& candidate : ready) {
      const bool passed = std::any_of(query.passed.begin(), query.passed.end(),
                                      [&](const Placement& p) { return p.SameLife(candidate); });
      if (!passed) return candidate;
    }
    return std::nullopt;
  }
  bool MayRetry(MonoTime) override {
    ++retries;
    return may_retry;
  }
  bool may_retry = true;
  int retries = 0;
  std::vector<Placement> ready = {At(0)};
  std::vector<PlaceQuery> queries;

  static Placement At(uint32_t worker) { return {WorkerIndex(worker), 1, 1, "num"}; }
};

class RelayTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    static const TinyModel model;
    auto tokenizer = Tokenizer::Load(model.dir());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = std::move(*tokenizer);
  }

  RelayTest() {
    request_.request_id = "r";
    request_.cache_salt = "acme";
    request_.prompt = {1, 2, 3};
    request_.sampling.max_tokens = 10;
    request_.sampling.stop_token_ids = {kTinyEos};
    request_.text.tokenizer = tokenizer_.get();
    request_.deadline = now_ + seconds(60);
    request_.timeout_seconds = 60;
  }

  Relay& Start() {
    relay_ = std::make_unique<Relay>(request_, RelayLimits{}, &placer_, &next_id_);
    actions_.clear();
    relay_->Start(now_, &actions_);
    return *relay_;
  }

  SequenceUpdate Tokens(const std::string& bytes, SequenceEnd end = SequenceEnd::kNone) {
    SequenceUpdate update;
    update.id = SequenceId(next_id_ - 1);
    for (const char c : bytes) update.token_ids.push_back(static_cast<uint8_t>(c));
    update.end = end;
    return update;
  }
  void Update(const SequenceUpdate& update) {
    actions_.clear();
    relay_->OnUpdate(update, now_, &actions_);
  }
  void Lose(LossCause cause = LossCause::kWorkerLost) {
    actions_.clear();
    relay_->OnLost(SequenceId(next_id_ - 1), cause, now_, &actions_);
  }

  template <typename T>
  const T* Only() const {
    const T* found = nullptr;
    for (const RelayAction& action : actions_) {
      if (const T* t = std::get_if<T>(&action)) {
        EXPECT_EQ(found, nullptr) << "more than one";
        found = t;
      }
    }
    return found;
  }

  static std::unique_ptr<Tokenizer> tokenizer_;
  MonoTime now_ = MonoTime{} + seconds(1000);
  RelayRequest request_;
  ScriptedPlacer placer_;
  uint64_t next_id_ = 1;
  std::unique_ptr<Relay> relay_;
  Relay::Actions actions_;
};
std::unique_ptr<Tokenizer> RelayTest::tokenizer_;

TEST_F(RelayTest, SubmitsThePromptToTheChosenRank) {
  Start();
  const auto* submit = Only<SubmitAction>();
  ASSERT_NE(submit, nullptr);
  EXPECT_EQ(submit->worker, WorkerIndex(0));
  EXPECT_EQ(submit->submit.token_ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(submit->submit.num_prompt_tokens, 3u);
  EXPECT_EQ(submit->submit.cache_salt, "acme");
}

TEST_F(RelayTest, SubmitsEachChoiceWithItsNumber) {
  request_.num_choices = 3;
  Start();
  ASSERT_EQ(actions_.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::get<SubmitAction>(actions_[i]).submit.choice, i);
    EXPECT_EQ(placer_.queries[i].siblings.size(), i);  // told where the others went
  }
}

TEST_F(RelayTest, FinishesAtTheStopTokenWhichHasNoText) {
  Start();
  SequenceUpdate update = Tokens("hi");
  update.token_ids.push_back(kTinyEos);
  update.end = SequenceEnd::kStop;
  Update(update);
  const auto* deliver = Only<DeliverAction>();
  ASSERT_NE(deliver, nullptr);
  EXPECT_EQ(deliver->delta.text, "hi");
  EXPECT_EQ(deliver->delta.token_ids.size(), 3u);
  EXPECT_EQ(deliver->delta.finish_reason, "stop");
  const auto* finish = Only<FinishAction>();
  ASSERT_NE(finish, nullptr);
  EXPECT_EQ(finish->usage.output_tokens, 3u);
  EXPECT_EQ(finish->usage.prompt_tokens, 3u);
  EXPECT_EQ(Only<CancelSequenceAction>(), nullptr);
}

TEST_F(RelayTest, KnowsTheEndItselfWhenTheWorkerDiesBeforeSayingIt) {
  Start();
  SequenceUpdate update = Tokens("hi");
  update.token_ids.push_back(kTinyEos);
  Update(update);
  EXPECT_NE(Only<FinishAction>(), nullptr);
  Lose();
  EXPECT_TRUE(actions_.empty());
}

TEST_F(RelayTest, AStopStringCancelsTheSequenceAndCountsUpToItsLastToken) {
  request_.text.stops = {"lo"};
  Start();
  Update(Tokens("hello world"));
  const auto* deliver = Only<DeliverAction>();
  ASSERT_NE(deliver, nullptr);
  EXPECT_EQ(deliver->delta.text, "hel");
  EXPECT_EQ(deliver->delta.token_ids.size(), 5u);
  EXPECT_EQ(deliver->delta.finish_reason, "stop");
  EXPECT_NE(Only<CancelSequenceAction>(), nullptr);
  EXPECT_EQ(Only<FinishAction>()->usage.output_tokens, 5u);
}

TEST_F(RelayTest, HoldsBackWhatMayBecomeAStop) {
  request_.text.stops = {"lo!"};
  Start();
  Update(Tokens("hel"));
  EXPECT_EQ(Only<DeliverAction>()->delta.text, "he");
  Update(Tokens("p"));
  EXPECT_EQ(Only<DeliverAction>()->delta.text, "lp");
}

TEST_F(RelayTest, EndsWithLengthAtItsTokenLimit) {
  request_.sampling.max_tokens = 4;
  Start();
  Update(Tokens("abcdef"));
  EXPECT_EQ(Only<DeliverAction>()->delta.text, "abcd");
  EXPECT_EQ(Only<DeliverAction>()->delta.finish_reason, "length");
  EXPECT_NE(Only<CancelSequenceAction>(), nullptr);
}

TEST_F(RelayTest, SplitsReasoningAndCountsItsTokens) {
  request_.text.split_reasoning = true;
  request_.text.starts_inside_reasoning = true;
  Start();
  SequenceUpdate update = Tokens("abc");
  update.token_ids.push_back(kTinyThinkClose);
  for (const char c : std::string("yes")) update.token_ids.push_back(c);
  update.token_ids.push_back(kTinyEos);
  Update(update);
  EXPECT_EQ(Only<DeliverAction>()->delta.reasoning, "abc");
  EXPECT_EQ(Only<DeliverAction>()->delta.text, "yes");
  EXPECT_EQ(Only<FinishAction>()->usage.reasoning_tokens, 4u);
}

TEST_F(RelayTest, ReplaysPromptAndCommittedTokensOnAnotherRankOfTheSameNumerics) {
  placer_.ready = {ScriptedPlacer::At(0), ScriptedPlacer::At(1)};
  Start();
  Update(Tokens("ab"));
  Lose();
  const auto* submit = Only<SubmitAction>();
  ASSERT_NE(submit, nullptr);
  EXPECT_EQ(submit->worker, WorkerIndex(1));
  EXPECT_EQ(submit->submit.token_ids, (std::vector<int32_t>{1, 2, 3, 'a', 'b'}));
  EXPECT_EQ(submit->submit.num_prompt_tokens, 3u);
  EXPECT_EQ(placer_.queries.back().numerics_id, "num");
  EXPECT_EQ(relay_->replays(), 1u);
}

TEST_F(RelayTest, IgnoresWhatALostSequenceStillSends) {
  placer_.ready = {ScriptedPlacer::At(0), ScriptedPlacer::At(1)};
  Start();
  SequenceUpdate late = Tokens("zz");
  Lose();
  Update(late);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(RelayTest, WaitsWithoutARankAndGoesOnWhenOneIsReady) {
  Start();
  Update(Tokens("ab"));
  placer_.ready.clear();
  Lose();
  EXPECT_TRUE(actions_.empty());
  EXPECT_TRUE(relay_->waiting());
  placer_.ready = {{WorkerIndex(0), 2, 1, "num"}};
  relay_->OnPlaceable(now_, &actions_);
  EXPECT_NE(Only<SubmitAction>(), nullptr);
}

TEST_F(RelayTest, ComesBackToALosingRankAfterItsCooldown) {
  Start();
  Lose(LossCause::kEpochEnded);
  EXPECT_TRUE(relay_->waiting());
  now_ = relay_->NextTimer();
  EXPECT_LE(now_, MonoTime{} + seconds(1001));
  actions_.clear();
  relay_->OnTimer(now_, &actions_);
  EXPECT_NE(Only<SubmitAction>(), nullptr);
}

TEST_F(RelayTest, ARequestThatEveryRankRefusesFailsAsQueueFull) {
  placer_.ready = {ScriptedPlacer::At(0), ScriptedPlacer::At(1)};
  Start();
  SequenceUpdate refusal = Tokens("", SequenceEnd::kRefused);
  refusal.error = "no room";
  Update(refusal);
  ASSERT_NE(Only<SubmitAction>(), nullptr);
  refusal.id = SequenceId(next_id_ - 1);
  Update(refusal);
  ASSERT_NE(Only<FailAction>(), nullptr);
  EXPECT_EQ(Only<FailAction>()->error.http, 503);
  EXPECT_EQ(Only<FailAction>()->error.code, "queue_full");
}

TEST_F(RelayTest, GivesUpOnARequestThatKillsEveryRank) {
  Start();
  for (int i = 0; i < 32; ++i) {
    Lose();
    placer_.ready[0].connection++;
    relay_->OnPlaceable(now_, &actions_);
    ASSERT_NE(Only<SubmitAction>(), nullptr) << i;
  }
  Lose();
  ASSERT_NE(Only<FailAction>(), nullptr);
  EXPECT_EQ(Only<FailAction>()->error.http, 503);
}

TEST_F(RelayTest, BeforeItsFirstTokenItIsRunAgainOnlyWithinTheBudget) {
  request_.num_choices = 2;
  placer_.ready = {ScriptedPlacer::At(0), ScriptedPlacer::At(1)};
  Start();
  actions_.clear();
  relay_->OnLost(SequenceId(1), LossCause::kWorkerLost, now_, &actions_);
  relay_->OnLost(SequenceId(2), LossCause::kWorkerLost, now_, &actions_);
  EXPECT_EQ(placer_.retries, 1);  // one loss of one request
  EXPECT_EQ(actions_.size(), 2u);
  placer_.may_retry = false;
  now_ += seconds(2);
  actions_.clear();
  relay_->OnLost(SequenceId(3), LossCause::kEpochEnded, now_, &actions_);
  ASSERT_NE(Only<FailAction>(), nullptr);
  EXPECT_EQ(Only<FailAction>()->error.http, 503);
  EXPECT_EQ(Only<FailAction>()->error.code, "not_ready");
  EXPECT_NE(Only<CancelSequenceAction>(), nullptr);  // of the other choice
}

TEST_F(RelayTest, UnderWayItGoesOnWithoutABudget) {
  placer_.may_retry = false;
  Start();
  Update(Tokens("a"));
  Lose(LossCause::kEpochEnded);
  placer_.ready[0].epoch++;
  relay_->OnPlaceable(now_, &actions_);
  EXPECT_NE(Only<SubmitAction>(), nullptr);
  EXPECT_EQ(placer_.retries, 0);
}

TEST_F(RelayTest, ADeadlineThatPassesWithoutARankSaysSo) {
  Start();
  Update(Tokens("a"));
  placer_.ready.clear();
  Lose();
  now_ = request_.deadline;
  actions_.clear();
  relay_->OnTimer(now_, &actions_);
  const ApiError& error = Only<FailAction>()->error;
  EXPECT_EQ(error.http, 504);
  EXPECT_NE(error.message.find("numerics id num"), std::string::npos) << error.message;
}

TEST_F(RelayTest, APlaceThatNobodyCanHaveIsRefused) {
  Start();
  Update(Tokens("abc"));
  using Has = std::vector<DeliveredChoice>;
  for (const Has& has : {Has{{0, 4, false}}, Has{{1, 0, false}}, Has{{0, 3, true}}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(relay_->DeliverAgain(has, 1).status()));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(relay_->DeliverAgain({}, 2).status()));
  EXPECT_EQ(relay_->DeliverAgain({{0, 3, false}}, 1)->size(), 0u);
  EXPECT_EQ(relay_->DeliverAgain({{0, 1, false}}, 0)->at(0).text, "bc");
}

TEST_F(RelayTest, LogprobsThatAreKeptNoLongerCannotBeDeliveredAgain) {
  request_.sampling.num_logprobs = 0;
  request_.keep_logprobs = true;
  relay_ = std::make_unique<Relay>(request_,
                                   RelayLimits{.kept_logprob_bytes_max = 2 * sizeof(StepLogprob)},
                                   &placer_, &next_id_);
  relay_->Start(now_, &actions_);
  SequenceUpdate update = Tokens("ab");
  update.logprobs.resize(2);
  Update(update);
  EXPECT_EQ(relay_->DeliverAgain({}, 1)->at(0).logprobs.size(), 2u);
  update = Tokens("c");
  update.logprobs.resize(1);
  Update(update);
  EXPECT_TRUE(absl::IsNotFound(relay_->DeliverAgain({{0, 2, false}}, 1).status()));
  EXPECT_TRUE(relay_->DeliverAgain({{0, 3, false}}, 1).ok());  // nothing is missed
}

TEST_F(RelayTest, TheDeadlineCancelsAndFails) {
  request_.num_choices = 2;
  Start();
  now_ = request_.deadline;
  EXPECT_EQ(relay_->NextTimer(), now_);
  actions_.clear();
  relay_->OnTimer(now_, &actions_);
  ASSERT_EQ(actions_.size(), 3u);
  EXPECT_TRUE(std::holds_alternative<CancelSequenceAction>(actions_[0]));
  EXPECT_TRUE(std::holds_alternative<CancelSequenceAction>(actions_[1]));
  EXPECT_EQ(std::get<FailAction>(actions_[2]).error.http, 504);
  EXPECT_TRUE(relay_->over());
}

TEST_F(RelayTest, LogprobsCarryTheBytesOfTheirTokens) {
  request_.sampling.num_logprobs = 1;
  Start();
  SequenceUpdate update = Tokens("a");
  update.logprobs = {{-0.5f, {'b', 'c'}, {-0.25f, -3.0f}}};
  Update(update);
  const auto& logprobs = Only<DeliverAction>()->delta.logprobs;
  ASSERT_EQ(logprobs.size(), 1u);
  EXPECT_EQ(logprobs[0].bytes, "a");
  ASSERT_EQ(logprobs[0].top.size(), 1u);
  EXPECT_EQ(logprobs[0].top[0].bytes, "b");
}

TEST_F(RelayTest, AnEchoIsDeliveredOnceAlsoOverAResume) {
  request_.echo = "h\xc3\xa9";
  Start();
  EXPECT_EQ(Only<DeliverAction>()->delta.text, "h\xc3\xa9");
  ResumedChoice resumed;
  resumed.token_ids = {'a', 'b'};
  resumed.text_bytes = 4;
  request_.resume = {resumed};
  Start();
  EXPECT_EQ(Only<DeliverAction>()->delta.text, "b");
  EXPECT_EQ(Only<SubmitAction>()->submit.token_ids.size(), 5u);
}

TEST_F(RelayTest, WithoutTokensToMakeNothingIsSubmitted) {
  request_.echo = "x";
  request_.sampling.max_tokens = 0;
  request_.num_choices = 2;
  Start();
  EXPECT_EQ(Only<SubmitAction>(), nullptr);
  EXPECT_EQ(Only<FinishAction>()->usage.output_tokens, 0u);
  EXPECT_EQ(relay_->finish_reasons(), (std::vector<std::string>{"length", "length"}));
}

TEST_F(RelayTest, LogprobsSayWhereTheirTextBegins) {
  request_.echo = "\xc3\xa9:";  // two characters
  request_.sampling.num_logprobs = 0;
  Start();
  SequenceUpdate update = Tokens("a\xc3\xa9z");
  update.logprobs.resize(update.token_ids.size());
  Update(update);
  const auto& logprobs = Only<DeliverAction>()->delta.logprobs;
  ASSERT_EQ(logprobs.size(), 4u);
  EXPECT_EQ(logprobs[0].text_offset, 2u);
  EXPECT_EQ(logprobs[1].text_offset, 3u);  // both halves of one character
  EXPECT_EQ(logprobs[2].text_offset, 3u);
  EXPECT_EQ(logprobs[3].text_offset, 4u);
}

TEST_F(RelayTest, AResumeThatWasAlreadyOverFinishesAtOnce) {
  ResumedChoice resumed;
  resumed.token_ids = {'h', 'i', kTinyEos};
  resumed.text_bytes = 1;
  request_.resume = {resumed};
  Start();
  EXPECT_EQ(Only<SubmitAction>(), nullptr);
  EXPECT_EQ(Only<DeliverAction>()->delta.text, "i");
  EXPECT_TRUE(Only<DeliverAction>()->delta.token_ids.empty());
  EXPECT_EQ(Only<FinishAction>()->usage.output_tokens, 3u);
}

}  // namespace
}  // namespace choir
