#include "router/admission/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/router/admission/admission_world.h"

namespace choir {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using enum AdmissionClass;

Amount Sequences(double n) { return {.is_share = false, .value = n}; }

// Nothing is kept for anybody, and ranks are given no more than they run at once.
AdmissionConfig Plain() {
  AdmissionConfig config;
  config.ahead = 0;
  for (ClassRules& rules : config.classes) rules.floor = Sequences(0);
  return config;
}

TEST(AdmissionTest, RequestsRunWhileThereAreSeatsAndThenWaitTheirTurn) {
  AdmissionWorld world(Plain());
  std::vector<uint64_t> asked;
  for (int i = 0; i < 6; ++i) asked.push_back(world.Ask({}));
  for (int i = 0; i < 6; ++i) EXPECT_EQ(world.runs(asked[i]), i < 4) << i;
  world.End(asked[2]);
  EXPECT_TRUE(world.runs(asked[4]));
  EXPECT_FALSE(world.runs(asked[5]));
  world.ExpectEven();
}

TEST(AdmissionTest, RanksThatDoNotSayHowManyTheyRunGetEverything) {
  AdmissionWorld world(Plain());
  world.ranks = {.ranks = 1, .bounded = false};
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(world.runs(world.Ask({})));
}

TEST(AdmissionTest, ARankIsGivenAFewAheadSoThatNoSeatStaysEmpty) {
  AdmissionConfig config = Plain();
  config.ahead = 2;
  AdmissionWorld world(config);
  world.ranks.ranks = 2;
  for (int i = 0; i < 20; ++i) world.Ask({});
  EXPECT_EQ(world.taken(), 4u + 2 * 2);
}

TEST(AdmissionTest, WithoutARankEverybodyWaitsAndRunsWhenThereIsOne) {
  AdmissionWorld world(Plain());
  world.ranks = {.ranks = 0, .bounded = true};
  const uint64_t one = world.Ask({});
  EXPECT_FALSE(world.runs(one));
  world.ranks = {.ranks = 1, .seats = 1, .bounded = true};
  world.Turn();
  EXPECT_TRUE(world.runs(one));
}

// Reports of what others run there may be old: whoever has nothing there is let through.
TEST(AdmissionTest, OneRequestRunsHoweverFullTheRanksSayTheyAre) {
  AdmissionWorld world(Plain());
  world.ranks.seats = 0;
  const uint64_t first = world.Ask({}), second = world.Ask({});
  EXPECT_TRUE(world.runs(first));
  EXPECT_FALSE(world.runs(second));
  world.End(first);
  EXPECT_TRUE(world.runs(second));
}

TEST(AdmissionTest, APromptWaitsForTheKvThatItNeedsAndThoseBelowItWaitToo) {
  AdmissionWorld world(Plain());
  world.ranks.kv_free = 1000;
  const uint64_t first = world.Ask({.work = {.prompt = 600, .output_max = 1}});
  const uint64_t large = world.Ask({.work = {.prompt = 500, .output_max = 1}});
  const uint64_t bulk =
      world.Ask({.admission_class = kBulk, .work = {.prompt = 1, .output_max = 1}});
  const uint64_t high =
      world.Ask({.admission_class = kInteractive, .work = {.prompt = 1, .output_max = 1}});
  EXPECT_TRUE(world.runs(first) && world.runs(high));
  EXPECT_FALSE(world.runs(large) || world.runs(bulk));
  world.End(first);
  EXPECT_TRUE(world.runs(large) && world.runs(bulk));
}

TEST(AdmissionTest, HigherClassesGoFirst) {
  AdmissionWorld world(Plain());
  world.ranks.seats = 1;
  uint64_t running = world.Ask({.admission_class = kBulk});
  std::map<AdmissionClass, uint64_t> asked;
  for (const AdmissionClass c : {kBulk, kDefault, kInteractive, kSystem}) {
    asked[c] = world.Ask({.admission_class = c});
  }
  for (const AdmissionClass c : kAdmissionClasses) {
    world.End(running);
    running = asked[c];
    EXPECT_TRUE(world.runs(running)) << AdmissionClassName(c);
  }
}

TEST(AdmissionTest, AFloorIsKeptFree) {
  AdmissionConfig config = Plain();
  config.of(kInteractive).floor = Sequences(2);
  AdmissionWorld world(config);
  for (int i = 0; i < 10; ++i) world.Ask({.admission_class = kBulk});
  EXPECT_EQ(world.taken(), 2u);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(world.runs(world.Ask({.admission_class = kInteractive})));
  EXPECT_FALSE(world.runs(world.Ask({.admission_class = kInteractive})));
}

TEST(AdmissionTest, AClassBelowItsFloorGoesBeforeHigherOnes) {
  AdmissionConfig config = Plain();
  config.of(kBulk).floor = Sequences(1);
  AdmissionWorld world(config);
  std::vector<uint64_t> high;
  for (int i = 0; i < 10; ++i) high.push_back(world.Ask({.admission_class = kInteractive}));
  EXPECT_EQ(world.of(kInteractive).running_sequences, 3u);
  const uint64_t bulk = world.Ask({.admission_class = kBulk});
  EXPECT_TRUE(world.runs(bulk));
  world.Ask({.admission_class = kBulk});
  world.End(high[0]);
  EXPECT_EQ(world.of(kBulk).running_sequences, 1u);
  EXPECT_EQ(world.of(kInteractive).running_sequences, 3u);
}

TEST(AdmissionTest, ACeilingHoldsThoughSeatsAreFree) {
  AdmissionConfig config = Plain();
  config.of(kBulk).ceiling = {.is_share = true, .value = 0.5};
  AdmissionWorld world(config);
  for (int i = 0; i < 10; ++i) world.Ask({.admission_class = kBulk});
  EXPECT_EQ(world.taken(), 2u);
  EXPECT_TRUE(world.runs(world.Ask({})));
}

TEST(AdmissionTest, ChoicesCountAndMoreThanTheCeilingRunAlone) {
  AdmissionConfig config = Plain();
  config.of(kBulk).ceiling = Sequences(2);
  AdmissionWorld world(config);
  const uint64_t many =
      world.Ask({.admission_class = kBulk, .work = {.prompt = 1, .output_max = 3, .choices = 3}});
  const uint64_t next = world.Ask({.admission_class = kBulk});
  EXPECT_TRUE(world.runs(many));
  EXPECT_FALSE(world.runs(next));
  world.End(many);
  EXPECT_TRUE(world.runs(next));
}

TEST(AdmissionTest, AClassThatWasPassedOverForItsAgeingGetsTheNextPlace) {
  AdmissionConfig config = Plain();
  config.of(kBulk).ageing = seconds(10);
  AdmissionWorld world(config);
  world.ranks.seats = 1;
  uint64_t running = world.Ask({.admission_class = kInteractive});
  const uint64_t bulk = world.Ask({.admission_class = kBulk});
  for (int i = 0; i < 9; ++i) {
    const uint64_t next = world.Ask({.admission_class = kInteractive});
    world.clock.Advance(seconds(1));
    world.End(running);
    ASSERT_TRUE(world.runs(next));
    running = next;
  }
  EXPECT_FALSE(world.runs(bulk));
  const uint64_t next = world.Ask({.admission_class = kInteractive});
  // The first one before it was let run a second after it came.
  EXPECT_EQ(world.admission.NextTimer(world.clock.Now()), world.clock.Now() + seconds(2));
  world.clock.Advance(seconds(2));
  world.End(running);
  EXPECT_TRUE(world.runs(bulk) && world.permit(bulk).aged());
  EXPECT_FALSE(world.runs(next));
}

TEST(AdmissionTest, WhoWaitsOnlyForItsOwnClassDoesNotAge) {
  AdmissionConfig config = Plain();
  config.of(kBulk).ageing = seconds(1);
  AdmissionWorld world(config);
  world.ranks.seats = 1;
  uint64_t running = world.Ask({.admission_class = kBulk});
  const uint64_t next = world.Ask({.admission_class = kBulk});
  const uint64_t high = world.Ask({.admission_class = kInteractive});
  world.clock.Advance(seconds(60));
  world.End(running);
  EXPECT_TRUE(world.runs(high)) << "a long run of its own is no reason to let bulk go first";
  world.End(high);
  EXPECT_TRUE(world.runs(next));
  EXPECT_FALSE(world.permit(next).aged());
}

TEST(AdmissionTest, AgeingTakesOnePlaceOfAFloorAndOnlyForWhoHasNothing) {
  AdmissionConfig config = Plain();
  config.of(kInteractive).floor = Sequences(4);
  config.of(kBulk).ageing = seconds(1);
  AdmissionWorld world(config);
  world.Ask({.admission_class = kInteractive});  // or the bulk one would have everything to itself
  std::vector<uint64_t> bulk;
  for (int i = 0; i < 3; ++i) bulk.push_back(world.Ask({.admission_class = kBulk}));
  EXPECT_FALSE(world.runs(bulk[0]));
  world.clock.Advance(seconds(1));
  world.Turn();
  EXPECT_TRUE(world.runs(bulk[0]));
  world.clock.Advance(seconds(100));
  world.Turn();
  EXPECT_FALSE(world.runs(bulk[1]));
}

TEST(AdmissionTest, AFullQueueRefusesBeforeAnythingOfThePromptIsRead) {
  AdmissionConfig config = Plain();
  config.of(kBulk).queue = 2;
  AdmissionWorld world(config);
  for (int i = 0; i < 6; ++i) ASSERT_NE(world.Ask({.admission_class = kBulk}), 0u) << i;
  auto refused = world.admission.Enter({.number = 100, .tenant = "t", .admission_class = kBulk},
                                       world.clock.Now());
  const ApiError& error = std::get<ApiError>(refused);
  EXPECT_EQ(error.http, 503);
  EXPECT_EQ(error.code, "queue_full");
  EXPECT_THAT(error.message, HasSubstr("router.admission.bulk.queue"));
  EXPECT_EQ(error.limit_rule, "class:bulk.queue");
  EXPECT_GT(error.retry_after_seconds, 0);
  EXPECT_NE(world.Ask({}), 0u) << "other classes have queues of their own";
  world.ExpectEven();
}

TEST(AdmissionTest, WhatEnteredForSeatsThatAreGoneSinceDoesNotOverfillTheQueue) {
  AdmissionConfig config = Plain();
  config.of(kDefault).queue = 1;
  AdmissionWorld world(config);
  std::vector<std::unique_ptr<Permit>> entered;
  world.ranks.seats = 4;
  world.Ask({});  // tells the capacity
  for (uint64_t i = 0; i < 4; ++i) {
    auto one = world.admission.Enter({.number = 100 + i, .tenant = "t"}, world.clock.Now());
    entered.push_back(std::move(std::get<std::unique_ptr<Permit>>(one)));
  }
  EXPECT_TRUE(std::holds_alternative<ApiError>(
      world.admission.Enter({.number = 200, .tenant = "t"}, world.clock.Now())));
  world.admission.SetCapacity({.ranks = 0, .bounded = true});
  EXPECT_FALSE(world.admission.Wait(*entered[0], {.prompt = 1}, world.clock.Now()));
  for (size_t i = 1; i < 4; ++i) {
    const auto refused = world.admission.Wait(*entered[i], {.prompt = 1}, world.clock.Now());
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->code, "queue_full");
  }
  entered.clear();
  EXPECT_EQ(world.of(kDefault).waiting, 0u);
  world.ExpectEven();
}

TEST(AdmissionTest, AQueueOfNoneRunsAtOnceOrNotAtAll) {
  AdmissionConfig config = Plain();
  config.of(kDefault).queue = 0;
  AdmissionWorld world(config);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(world.runs(world.Ask({})));
  EXPECT_EQ(world.Ask({}), 0u);
  EXPECT_EQ(world.error.code, "queue_full");
}

TEST(AdmissionTest, ABoundHoldsForAllTogether) {
  AdmissionWorld world(Plain(), 3);
  const uint64_t first = world.Ask({});
  for (int i = 0; i < 2; ++i) EXPECT_NE(world.Ask({.admission_class = kBulk}), 0u);
  EXPECT_EQ(world.Ask({.resumed = true}), 0u);
  EXPECT_THAT(world.error.message, HasSubstr("router.max_requests"));
  world.Drop(first);
  EXPECT_NE(world.Ask({}), 0u);
}

TEST(AdmissionTest, AFloodOfOneClassLeavesOthersAWayIn) {
  AdmissionWorld world(Plain(), 160);
  for (const AdmissionClass flood : {kInteractive, kBulk}) {
    while (world.Ask({.admission_class = flood}) != 0) {
    }
    EXPECT_THAT(world.error.message, HasSubstr("router.max_requests"));
  }
  for (int i = 0; i < 10; ++i) {
    EXPECT_NE(world.Ask({}), 0u) << i;
    EXPECT_NE(world.Ask({.admission_class = kSystem}), 0u) << i;
  }
  EXPECT_EQ(world.Ask({}), 0u);
  EXPECT_EQ(world.of(kInteractive).waiting + world.of(kInteractive).running, 130u);
  EXPECT_EQ(world.of(kBulk).waiting + world.of(kBulk).running, 10u);
}

TEST(AdmissionTest, WhoWaitedAsLongAsOneMayIsRefused) {
  AdmissionConfig config = Plain();
  config.of(kDefault).queue_timeout = seconds(5);
  AdmissionWorld world(config);
  world.ranks.seats = 1;
  const uint64_t running = world.Ask({}), waiting = world.Ask({});
  EXPECT_EQ(world.admission.NextTimer(world.clock.Now()), world.clock.Now() + seconds(5));
  world.clock.Advance(seconds(5) - milliseconds(1));
  EXPECT_TRUE(world.Expire().empty());
  world.clock.Advance(milliseconds(1));
  const auto expired = world.Expire();
  ASSERT_EQ(expired.size(), 1u);
  EXPECT_EQ(expired[0].first, waiting);
  EXPECT_EQ(expired[0].second.http, 503);
  EXPECT_EQ(expired[0].second.code, "queue_full");
  EXPECT_THAT(expired[0].second.message, HasSubstr("waited 5 s"));
  EXPECT_EQ(expired[0].second.limit_rule, "class:default.queue_timeout");
  EXPECT_GT(expired[0].second.retry_after_seconds, 0);
  EXPECT_TRUE(world.runs(running));
  EXPECT_FALSE(world.admission.anybody_waits());
  world.ExpectEven();
}

TEST(AdmissionTest, AResumedRequestRunsAtOnceAndIsCharged) {
  AdmissionWorld world(Plain());
  for (int i = 0; i < 6; ++i) world.Ask({});
  const uint64_t resumed = world.Ask({.resumed = true});
  EXPECT_TRUE(world.runs(resumed));
  EXPECT_EQ(world.admission.status(world.clock.Now()).outstanding_tokens, 500u);
  world.End(resumed);
  world.ExpectEven();
}

TEST(AdmissionTest, TenantsOfAClassShareByWork) {
  AdmissionWorld world(Plain());
  world.ranks.seats = 1;
  uint64_t running = world.Ask({.tenant = "flood"});
  std::vector<uint64_t> flood;
  for (int i = 0; i < 20; ++i) flood.push_back(world.Ask({.tenant = "flood"}));
  const uint64_t small = world.Ask({.tenant = "small"});
  world.End(running);
  EXPECT_TRUE(world.runs(small));
}

// One request a second, each of 100 tokens.
void RunQueue(AdmissionWorld* world, uint64_t* running, std::vector<uint64_t>* waiting, int turns) {
  for (int i = 0; i < turns; ++i) {
    waiting->push_back(world->Ask({}));
    world->clock.Advance(seconds(1));
    world->End(*running, {.tokens = 50, .output_tokens = 40, .ended_well = true});
    *running = waiting->front();
    ASSERT_TRUE(world->runs(*running));
    waiting->erase(waiting->begin());
  }
}

TEST(AdmissionTest, WhatCannotBeDoneInTimeIsRefusedAtOnceWithAnHonestHint) {
  AdmissionWorld world(Plain());
  world.ranks.seats = 1;
  uint64_t running = world.Ask({});
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 20; ++i) waiting.push_back(world.Ask({}));
  // Nothing is known yet: nobody is refused for a guess.
  const uint64_t early = world.Ask({.deadline = world.clock.Now() + milliseconds(1)});
  EXPECT_NE(early, 0u);
  world.Drop(early);
  RunQueue(&world, &running, &waiting, 60);
  // 20 wait, each takes a second, and runs for one: about 22.
  EXPECT_EQ(world.Ask({.deadline = world.clock.Now() + seconds(15)}), 0u);
  EXPECT_EQ(world.error.http, 503);
  EXPECT_EQ(world.error.code, "deadline");
  EXPECT_EQ(world.error.limit_rule, "class:default.deadline");
  EXPECT_NEAR(world.error.retry_after_seconds, 7, 1.5);
  EXPECT_NE(world.Ask({.deadline = world.clock.Now() + seconds(30)}), 0u);
  // Another tenant is next, whatever the first one has waiting.
  EXPECT_NE(world.Ask({.tenant = "other", .deadline = world.clock.Now() + seconds(5)}), 0u);
  world.ExpectEven();
}

TEST(AdmissionTest, ADeadlineThatNoWaitingHelpsHasNoHint) {
  AdmissionWorld world(Plain());
  world.ranks.seats = 1;
  uint64_t running = world.Ask({});
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 20; ++i) waiting.push_back(world.Ask({}));
  RunQueue(&world, &running, &waiting, 60);
  EXPECT_EQ(world.Ask({.deadline = world.clock.Now() + milliseconds(500)}), 0u);
  EXPECT_EQ(world.error.retry_after_seconds, 0) << "it runs for a second, waiting or not";
}

TEST(AdmissionTest, AFreeSeatIsNeverRefusedForADeadline) {
  AdmissionWorld world(Plain());
  world.ranks.seats = 1;
  uint64_t running = world.Ask({});
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(world.Ask({}));
  RunQueue(&world, &running, &waiting, 60);
  for (const uint64_t number : waiting) world.Drop(number);
  world.Drop(running);
  EXPECT_NE(world.Ask({.deadline = world.clock.Now() + milliseconds(1)}), 0u);
}

TEST(AdmissionTest, ForeseesWhatBecomesOfARequestAndChangesNothing) {
  AdmissionConfig config = Plain();
  config.of(kDefault).queue = 3;
  AdmissionWorld world(config);
  EXPECT_TRUE(world.Foresee({}).runs);
  for (int i = 0; i < 4; ++i) world.Ask({});
  const AdmissionOutlook next = world.Foresee({});
  EXPECT_FALSE(next.refusal || next.runs);
  EXPECT_EQ(next.place, 1u);
  EXPECT_FALSE(next.wait_seconds) << "nothing has waited yet";
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 2; ++i) waiting.push_back(world.Ask({}));
  EXPECT_EQ(world.Foresee({}).place, 3u);
  EXPECT_EQ(world.Foresee({.tenant = "other"}).place, 1u) << "it has had nothing yet";
  EXPECT_EQ(world.Foresee({.admission_class = kBulk}).place, 1u) << "of its class";
  world.Ask({});
  const AdmissionOutlook full = world.Foresee({});
  ASSERT_TRUE(full.refusal);
  EXPECT_EQ(full.refusal->code, "queue_full");
  EXPECT_GT(full.refusal->retry_after_seconds, 0);
  EXPECT_EQ(world.of(kDefault).waiting, 3u);
  EXPECT_EQ(world.of(kBulk).waiting, 0u);
  EXPECT_EQ(world.admission.status(world.clock.Now()).entered, 7u);
}

TEST(AdmissionTest, ForeseesTheWaitAtTheMeasuredRate) {
  AdmissionWorld world(Plain());
  std::vector<uint64_t> asked;
  for (int i = 0; i < 12; ++i) asked.push_back(world.Ask({}));
  for (int i = 0; i < 6; ++i) {  // one starts a second
    world.clock.Advance(seconds(1));
    world.End(asked[static_cast<size_t>(i)]);
  }
  const AdmissionOutlook outlook = world.Foresee({});
  EXPECT_EQ(outlook.place, 3u);
  ASSERT_TRUE(outlook.wait_seconds);
  EXPECT_NEAR(*outlook.wait_seconds, 3, 0.5);
  const AdmissionOutlook late = world.Foresee({.deadline = world.clock.Now() + milliseconds(500)});
  ASSERT_TRUE(late.refusal);
  EXPECT_EQ(late.refusal->code, "deadline");
}

TEST(AdmissionTest, NewRulesHoldAtOnce) {
  AdmissionConfig config = Plain();
  config.of(kBulk).ceiling = Sequences(1);
  AdmissionWorld world(config);
  const uint64_t first = world.Ask({.admission_class = kBulk});
  const uint64_t second = world.Ask({.admission_class = kBulk});
  EXPECT_TRUE(world.runs(first) && !world.runs(second));
  config.of(kBulk).ceiling = Sequences(2);
  config.tenants["acme"] = {.admission_class = kInteractive};
  world.admission.SetConfig(config);
  world.Turn();
  EXPECT_TRUE(world.runs(second));
  EXPECT_EQ(world.admission.ClassOf("acme"), kInteractive);
  EXPECT_EQ(world.admission.ClassOf("nobody"), kDefault);
}

}  // namespace
}  // namespace choir
