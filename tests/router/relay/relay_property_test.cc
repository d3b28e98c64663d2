#include <gtest/gtest.h>

#include "tests/router/relay/lossy_world.h"
#include "tests/support/tiny_model.h"

namespace choir {
namespace {

class RelayProperty : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ = new TinyModel;
    auto tokenizer = Tokenizer::Load(model_->dir());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = tokenizer->release();
  }
  static void TearDownTestSuite() {
    delete tokenizer_;
    delete model_;
  }

  static RelayRequest Request(uint64_t seed) {
    RelayRequest request;
    request.request_id = "r" + std::to_string(seed);
    request.prompt = {1, 2, 3};
    request.sampling.seed = seed;
    request.sampling.max_tokens = 5 + seed % 90;
    request.sampling.stop_token_ids = {kTinyEos};
    request.sampling.num_logprobs = seed % 2 == 0 ? 1 : -1;
    request.num_choices = 1 + seed % 4;
    request.text.tokenizer = tokenizer_;
    if (seed % 3 == 0) request.text.stops = {"STOP", "é\n"};
    request.text.split_reasoning = seed % 5 != 0;
    request.text.starts_inside_reasoning = seed % 7 == 0;
    request.deadline = MonoTime{} + std::chrono::hours(10);
    return request;
  }

  static TinyModel* model_;
  static Tokenizer* tokenizer_;
};
TinyModel* RelayProperty::model_ = nullptr;
Tokenizer* RelayProperty::tokenizer_ = nullptr;

void ExpectSame(const Received& got, const Received& want) {
  ASSERT_FALSE(got.error) << got.error->message;
  ASSERT_TRUE(got.finished);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.logprob_tokens, want.logprob_tokens);
  EXPECT_EQ(got.text, want.text);
  EXPECT_EQ(got.reasoning, want.reasoning);
  EXPECT_EQ(got.finish, want.finish);
  EXPECT_EQ(got.usage.output_tokens, want.usage.output_tokens);
  EXPECT_EQ(got.usage.reasoning_tokens, want.usage.reasoning_tokens);
  EXPECT_EQ(got.usage.prompt_tokens, want.usage.prompt_tokens);
}

TEST_F(RelayProperty, AnyDisasterGivesTheUndisturbedAnswer) {
  int losses = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    LossyWorld calm(Request(seed), seed, 1);
    calm.Run(0, 0);
    LossyWorld wild(Request(seed), seed, 1 + seed % 4);
    wild.Run(3000, 0.02);
    losses += wild.losses();
    ExpectSame(wild.received(), calm.received());
    EXPECT_EQ(wild.held_by_workers(), 0u);
    if (HasFailure()) return;
  }
  EXPECT_GT(losses, 500);  // the world is as bad as it claims to be
}

// What a client has after so many tokens of a choice, and what it gets then, is the whole answer.
TEST_F(RelayProperty, WhatWasDeliveredIsDeliveredAgainFromAnyPlace) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    RelayRequest request = Request(seed);
    request.keep_logprobs = true;
    if (seed % 6 == 1) request.echo = "echo";
    LossyWorld world(request, seed, 1 + seed % 3);
    world.Run(300, 0.02);
    const Received& want = world.received();
    ASSERT_TRUE(want.finished);
    ChoiceTextOptions options = request.text;
    options.stop_token_ids = request.sampling.stop_token_ids;
    options.max_tokens = request.sampling.max_tokens;
    for (uint32_t round = 0; round < 8; ++round) {
      std::vector<DeliveredChoice> has;
      std::map<uint32_t, std::string> text, reasoning;
      std::map<uint32_t, std::vector<int32_t>> tokens, logprobs;
      for (uint32_t i = 0; i < request.num_choices; ++i) {
        const std::vector<int32_t>& all = want.tokens.at(i);
        const auto cut = static_cast<uint32_t>(
            round == 0 ? 0 : (seed * 31 + i * 7 + round * 13) % (all.size() + 1));
        if (round == 0) continue;  // it has nothing
        has.push_back({i, cut, false});
        text[i] = request.echo;
        ChoiceText before(options);
        for (uint32_t k = 0; k < cut; ++k) {
          const ChoiceText::Piece piece = before.Push(all[k]);
          text[i] += piece.text;
          reasoning[i] += piece.reasoning;
          tokens[i].push_back(all[k]);
          if (!want.logprob_tokens.empty()) logprobs[i].push_back(all[k]);
        }
      }
      std::map<uint32_t, std::string> finish;
      const auto deltas = world.relay().DeliverAgain(has, request.num_choices);
      ASSERT_TRUE(deltas.ok()) << deltas.status();
      for (const ChoiceDelta& delta : *deltas) {
        EXPECT_LE(delta.token_ids.size(), 64u);
        text[delta.choice] += delta.text;
        reasoning[delta.choice] += delta.reasoning;
        for (const int32_t id : delta.token_ids) tokens[delta.choice].push_back(id);
        for (const TokenLogprob& l : delta.logprobs) logprobs[delta.choice].push_back(l.token_id);
        if (!delta.finish_reason.empty()) finish[delta.choice] = delta.finish_reason;
      }
      for (uint32_t i = 0; i < request.num_choices; ++i) {
        const auto of = [i](const auto& map) {
          return map.contains(i) ? map.at(i) : typename std::decay_t<decltype(map)>::mapped_type{};
        };
        EXPECT_EQ(of(text), of(want.text));
        EXPECT_EQ(of(reasoning), of(want.reasoning));
        EXPECT_EQ(of(tokens), of(want.tokens));
        EXPECT_EQ(of(logprobs), of(want.logprob_tokens));
        EXPECT_EQ(of(finish), of(want.finish));
      }
      if (HasFailure()) return;
    }
  }
}

TEST_F(RelayProperty, ACancelAtAnyMomentLeavesNothingBehind) {
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    LossyWorld world(Request(seed), seed, 1 + seed % 3);
    world.RunAndCancel(static_cast<int>(seed % 120), 0.02);
    EXPECT_TRUE(world.received().finished || world.received().error);
    EXPECT_EQ(world.held_by_workers(), 0u);
    if (HasFailure()) return;
  }
}

TEST_F(RelayProperty, AResumeAnywhereContinuesTheSameText) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    RelayRequest whole = Request(seed);
    whole.num_choices = 1;
    LossyWorld calm(whole, seed, 1);
    calm.Run(0, 0);
    const Received& want = calm.received();
    const std::vector<int32_t>& tokens = want.tokens.at(0);
    for (size_t cut = 0; cut <= tokens.size(); cut += 1 + seed % 5) {
      // What a client has after `cut` tokens is what a relay limited to them would have delivered.
      ChoiceTextOptions options = whole.text;
      options.stop_token_ids = whole.sampling.stop_token_ids;
      options.max_tokens = whole.sampling.max_tokens;
      ChoiceText before(options);
      ResumedChoice resumed;
      std::string text;
      std::string reasoning;
      for (size_t i = 0; i < cut; ++i) {
        const ChoiceText::Piece piece = before.Push(tokens[i]);
        text += piece.text;
        reasoning += piece.reasoning;
        resumed.token_ids.push_back(tokens[i]);
      }
      resumed.text_bytes = text.size();
      resumed.reasoning_bytes = reasoning.size();
      RelayRequest rest = whole;
      rest.resume = {resumed};
      LossyWorld world(rest, seed, 1);
      world.Run(0, 0);
      const Received& got = world.received();
      ASSERT_TRUE(got.finished);
      const auto of = [](const auto& map) { return map.count(0) ? map.at(0) : std::string(); };
      EXPECT_EQ(text + of(got.text), of(want.text));
      EXPECT_EQ(reasoning + of(got.reasoning), of(want.reasoning));
      EXPECT_EQ(of(got.finish), of(want.finish));
      EXPECT_EQ(got.usage.output_tokens, want.usage.output_tokens);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace choir
