#include "worker/rpc/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace choir {
namespace {

using ::testing::HasSubstr;

constexpr SubmitLimits kLimits{.vocab_size = 100, .context_length = 16};

v1::SubmitSequence Good() {
  v1::SubmitSequence wire;
  wire.set_id(5);
  for (const int id : {1, 2, 99}) wire.add_token_ids(id);
  wire.set_num_prompt_tokens(2);
  v1::EngineSampling* s = wire.mutable_sampling();
  s->set_max_tokens(4);
  s->set_temperature(0.5);
  s->set_top_p(0.9);
  s->set_seed(UINT64_MAX);
  s->set_num_logprobs(-1);
  s->add_bias_ids(3);
  s->add_bias_values(-1.5f);
  s->add_stop_token_ids(7);
  wire.set_cache_salt("acme");
  return wire;
}

TEST(Convert, ReadsEveryFieldOfASubmit) {
  const auto request = FromWire(Good(), kLimits);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->tokens, (std::vector<int32_t>{1, 2, 99}));
  EXPECT_EQ(request->num_prompt, 2);
  EXPECT_EQ(request->max_tokens, 4);
  EXPECT_EQ(request->sampling.temperature, 0.5);
  EXPECT_EQ(request->sampling.seed, UINT64_MAX);
  EXPECT_EQ(request->sampling.num_logprobs, -1);
  EXPECT_EQ(request->sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, -1.5f}}));
  EXPECT_EQ(request->stop_token_ids, (std::vector<int32_t>{7}));
  EXPECT_EQ(request->cache_salt, "acme");
}

TEST(Convert, RefusesWhatIsOutOfRangeAndNamesIt) {
  struct Case {
    const char* names;
    std::function<void(v1::SubmitSequence&)> spoil;
  };
  const Case cases[] = {
      {"0 token ids", [](auto& w) { w.clear_token_ids(); }},
      {"17 token ids, must be from 1 to the context length 16",
       [](auto& w) {
         while (w.token_ids_size() < 17) w.add_token_ids(1);
       }},
      {"token id 100 at 2", [](auto& w) { w.set_token_ids(2, 100); }},
      {"token id -1 at 0", [](auto& w) { w.set_token_ids(0, -1); }},
      {"num_prompt_tokens is 0", [](auto& w) { w.set_num_prompt_tokens(0); }},
      {"num_prompt_tokens is 4", [](auto& w) { w.set_num_prompt_tokens(4); }},
      {"max_tokens is 1", [](auto& w) { w.mutable_sampling()->set_max_tokens(1); }},
      {"max_tokens", [](auto& w) { w.mutable_sampling()->set_max_tokens(UINT32_MAX); }},
      {"max_tokens is 0", [](auto& w) { w.clear_sampling(); }},
      {"temperature", [](auto& w) { w.mutable_sampling()->set_temperature(-1); }},
      {"temperature", [](auto& w) { w.mutable_sampling()->set_temperature(std::nan("")); }},
      {"top_p", [](auto& w) { w.mutable_sampling()->set_top_p(0); }},
      {"top_p", [](auto& w) { w.mutable_sampling()->set_top_p(1.5); }},
      {"min_p", [](auto& w) { w.mutable_sampling()->set_min_p(2); }},
      {"presence_penalty", [](auto& w) { w.mutable_sampling()->set_presence_penalty(INFINITY); }},
      {"num_logprobs", [](auto& w) { w.mutable_sampling()->set_num_logprobs(-2); }},
      {"num_logprobs", [](auto& w) { w.mutable_sampling()->set_num_logprobs(65); }},
      {"bias", [](auto& w) { w.mutable_sampling()->add_bias_ids(1); }},
      {"logit bias of token id 100", [](auto& w) { w.mutable_sampling()->set_bias_ids(0, 100); }},
      {"logit bias", [](auto& w) { w.mutable_sampling()->set_bias_values(0, NAN); }},
      {"cache_salt has 257 bytes, must be at most 256",
       [](auto& w) { w.set_cache_salt(std::string(257, 'a')); }},
      {"stop token ids",
       [](auto& w) {
         for (int i = 0; i < kStopIdsMax; ++i) w.mutable_sampling()->add_stop_token_ids(1);
       }},
  };
  for (const Case& c : cases) {
    v1::SubmitSequence wire = Good();
    c.spoil(wire);
    const auto request = FromWire(wire, kLimits);
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << c.names;
    EXPECT_THAT(MessageOf(request.status()), HasSubstr(c.names));
  }
}

TEST(Convert, WritesUpdates) {
  SequenceOutput update{
      .id = SequenceId(1), .tokens = {4, 5}, .finish = Finish::kStop, .cached_tokens = 3};
  update.logprobs = {{-0.5f, {{4, -0.5f}, {9, -2.0f}}}, {-1.0f, {}}};
  v1::SequenceUpdate wire;
  ToWire(update, 77, &wire);
  EXPECT_EQ(wire.id(), 77u);
  EXPECT_EQ(wire.token_ids_size(), 2);
  ASSERT_EQ(wire.logprobs_size(), 2);
  EXPECT_EQ(wire.logprobs(0).top_ids(1), 9);
  EXPECT_EQ(wire.logprobs(0).top_logprobs(1), -2.0f);
  EXPECT_EQ(wire.finish(), v1::FINISH_STOP);
  EXPECT_EQ(wire.cached_tokens(), 3u);
}

TEST(Convert, KeepsHelloPlanAndStatusOverTheWire) {
  const MemberHello hello{.protocol_version = 1,
                          .build = "b",
                          .group = 2,
                          .rank = 3,
                          .group_size = 4,
                          .incarnation = 5,
                          .numerics_id = "n",
                          .model = "m",
                          .dtype = "d",
                          .kernels = "k",
                          .placement = "p",
                          .host = "h",
                          .pid = 6,
                          .address = "a:1",
                          .last_epoch = 7};
  v1::JoinHello wire;
  ToWire(hello, &wire);
  const MemberHello back = FromWire(wire);
  EXPECT_EQ(back.numerics_id, "n");
  EXPECT_EQ(back.model + back.dtype + back.kernels + back.placement, "mdkp");
  v1::Endpoint endpoint_wire;
  const ExchangeEndpoint endpoint{.segment = "/proc/1/fd/2", .mesh = std::string("\0\xff", 2)};
  ToWire(endpoint, &endpoint_wire);
  EXPECT_EQ(FromWire(endpoint_wire), endpoint);
  EXPECT_EQ(back.last_epoch, 7u);
  EXPECT_EQ(back.pid, 6);
  v1::EpochPlan plan_wire;
  ToWire(EpochPlan{.epoch = 9, .members = {hello}}, &plan_wire);
  const EpochPlan plan = FromWire(plan_wire);
  EXPECT_EQ(plan.epoch, 9u);
  ASSERT_EQ(plan.members.size(), 1u);
  EXPECT_EQ(plan.members[0].incarnation, 5u);
  for (const DrainStage stage :
       {DrainStage::kNone, DrainStage::kRunning, DrainStage::kDone, DrainStage::kIdle}) {
    EXPECT_EQ(FromWire(ToWire(stage)), stage);
  }
  EXPECT_EQ(FromWire(ToWire(Unavailable("gone"))), Unavailable("gone"));
}

}  // namespace
}  // namespace choir
