// An answer that was given before has the same events of text as when it was computed.
#include <gtest/gtest.h>

#include "router/relay/relay.h"
#include "tests/support/tiny_model.h"

namespace choir {
namespace {

class NoPlace final : public Placer {
 public:
  std::optional<Placement> Place(const PlaceQuery&) override {
    ADD_FAILURE() << "nothing is to be computed";
    return std::nullopt;
  }
  bool MayRetry(MonoTime) override { return false; }
};

class RecallTest : public testing::Test {
 protected:
  RecallTest() {
    auto tokenizer = Tokenizer::Load(model_.dir());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = std::move(*tokenizer);
    request_.request_id = "r";
    request_.prompt = {1, 2, 3};
    request_.sampling.max_tokens = 1000;
    request_.sampling.stop_token_ids = {kTinyEos};
    request_.text.tokenizer = tokenizer_.get();
    request_.num_choices = 1;
  }
  void Recall(const KnownAnswer& answer) {
    relay_ = std::make_unique<Relay>(request_, RelayLimits{}, &placer_, &next_id_);
    Relay::Actions actions;
    relay_->Recall(answer, &actions);
    for (RelayAction& action : actions) {
      if (const auto* deliver = std::get_if<DeliverAction>(&action)) {
        const ChoiceDelta& delta = deliver->delta;
        EXPECT_LE(delta.token_ids.size(), kTokensOfPiece);
        text_[delta.choice] += delta.text;
        num_tokens_[delta.choice] += delta.token_ids.size();
        if (!delta.finish_reason.empty()) finish_[delta.choice] += delta.finish_reason;
      } else if (const auto* finish = std::get_if<FinishAction>(&action)) {
        usage_ = finish->usage;
      } else {
        ADD_FAILURE() << "only deltas and an end are to come";
      }
    }
    EXPECT_TRUE(relay_->over());
  }
  static std::vector<int32_t> Bytes(const std::string& text) { return {text.begin(), text.end()}; }

  TinyModel model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  NoPlace placer_;
  uint64_t next_id_ = 1;
  RelayRequest request_;
  std::unique_ptr<Relay> relay_;
  std::map<uint32_t, std::string> text_, finish_;
  std::map<uint32_t, size_t> num_tokens_;
  std::optional<Usage> usage_;
};

TEST_F(RecallTest, GivesEveryChoiceInPiecesAndItsEndOnce) {
  request_.num_choices = 2;
  request_.echo = "so: ";
  std::vector<int32_t> ended = Bytes("ab");
  ended.push_back(kTinyEos);
  Recall({{Bytes(std::string(200, 'x')), "length"}, {ended, "stop"}});
  EXPECT_EQ(text_[0], "so: " + std::string(200, 'x'));
  EXPECT_EQ(text_[1], "so: ab");
  EXPECT_EQ(num_tokens_[0], 200u);
  EXPECT_EQ(num_tokens_[1], 3u);
  EXPECT_EQ(finish_[0], "length") << "a full context: nothing in the tokens says so";
  EXPECT_EQ(finish_[1], "stop");
  ASSERT_TRUE(usage_);
  EXPECT_EQ(usage_->prompt_tokens, 3u);
  EXPECT_EQ(usage_->cached_tokens, 3u);
  EXPECT_EQ(usage_->output_tokens, 203u);
}

TEST_F(RecallTest, AStopStringEndsItWhereItDid) {
  request_.text.stops = {"fox"};
  Recall({{Bytes("the fox"), "stop"}});
  EXPECT_EQ(text_[0], "the ");
  EXPECT_EQ(finish_[0], "stop");
  EXPECT_EQ(num_tokens_[0], 7u);
}

TEST_F(RecallTest, CanBeDeliveredAgain) {
  Recall({{Bytes("hello"), "length"}});
  const auto again = relay_->DeliverAgain({{.choice = 0, .tokens = 2}}, 1);
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_EQ(again->size(), 1u);
  EXPECT_EQ(again->front().text, "llo");
  EXPECT_EQ(again->front().finish_reason, "length");
}

}  // namespace
}  // namespace choir
