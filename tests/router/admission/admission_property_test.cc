// Admission under random loads, against what must hold whatever happens.
#include <gtest/gtest.h>

#include <random>

#include "tests/router/admission/admission_world.h"

namespace choir {
namespace {

using std::chrono::milliseconds;

class Load {
 public:
  explicit Load(uint32_t seed) : rng_(seed), world_(Config(), 40 + rng_() % 100) {
    world_.ranks.seats = Draw(1, 12);
    world_.ranks.ranks = Draw(1, 3);
  }

  void Run() {
    for (int i = 0; i < 3000; ++i) {
      Step();
      Check();
      if (testing::Test::HasFatalFailure()) return;
    }
    for (const uint64_t number : world_.numbers()) world_.Drop(number);
    world_.ExpectEven();
    EXPECT_EQ(world_.admission.status(world_.clock.Now()).there, 0u);
    EXPECT_EQ(world_.admission.status(world_.clock.Now()).outstanding_tokens, 0u);
    EXPECT_FALSE(world_.admission.anybody_waits());
  }

 private:
  uint64_t Draw(uint64_t low, uint64_t high) { return low + rng_() % (high - low + 1); }

  AdmissionConfig Config() {
    config_.ahead = Draw(0, 2);
    for (ClassRules& rules : config_.classes) {
      rules.floor = {.is_share = false, .value = static_cast<double>(Draw(0, 2))};
      rules.ceiling = {.is_share = false, .value = static_cast<double>(Draw(2, 20))};
      rules.queue = Draw(0, 20);
      rules.queue_timeout = milliseconds(Draw(50, 5000));
      rules.ageing = milliseconds(Draw(10, 1000));
    }
    return config_;
  }

  void Step() {
    world_.clock.Advance(milliseconds(Draw(0, 20)));
    world_.Expire();
    const std::vector<uint64_t> numbers = world_.numbers();
    switch (Draw(0, 5)) {
      case 0:
        if (Draw(0, 20) == 0) world_.ranks.seats = Draw(0, 12);
        world_.Turn();
        break;
      case 1:
      case 2: {
        if (numbers.empty()) break;
        const uint64_t one = numbers[rng_() % numbers.size()];
        const UsedWork used = {.tokens = Draw(0, 500), .output_tokens = 5, .ended_well = true};
        Draw(0, 1) == 0 ? world_.Drop(one) : world_.End(one, used);
        break;
      }
      default:
        Ask({.tenant = std::string(1, static_cast<char>('a' + Draw(0, 5))),
             .admission_class = kAdmissionClasses[Draw(0, 3)],
             .work = {.prompt = Draw(1, 200), .output_max = Draw(1, 200), .choices = Draw(1, 3)},
             .deadline = world_.clock.Now() + milliseconds(Draw(1, 20'000)),
             .resumed = Draw(0, 40) == 0});
    }
  }

  // What is foreseen of a request is what becomes of it.
  void Ask(const AdmissionWorld::Asked& asked) {
    world_.Turn();
    const AdmissionOutlook outlook = world_.Foresee(asked);
    const uint64_t number = world_.Ask(asked);
    ASSERT_EQ(number == 0, outlook.refusal.has_value());
    if (number == 0) {
      ASSERT_EQ(world_.error.message, outlook.refusal->message);
      ASSERT_EQ(world_.error.retry_after_seconds, outlook.refusal->retry_after_seconds);
      return;
    }
    ASSERT_EQ(world_.runs(number), outlook.runs);
    ASSERT_EQ(outlook.place > 0, !outlook.runs);
  }

  void Check() {
    const AdmissionStatus status = world_.admission.status(world_.clock.Now());
    ASSERT_EQ(status.Difference(), 0);
    ASSERT_EQ(status.WorkDifference(), 0);
    ASSERT_LE(status.held, status.held_max);
    ASSERT_EQ(status.held, world_.numbers().size());
    for (const AdmissionClass c : kAdmissionClasses) {
      ASSERT_LE(status.classes[static_cast<size_t>(c)].waiting, config_.of(c).queue);
    }
    CheckTurns(status);
  }

  // Nobody waits for whom there is a place, below its ceiling, that is kept for nobody else.
  void CheckTurns(const AdmissionStatus& status) {
    const uint64_t places = world_.ranks.seats + config_.ahead * world_.ranks.ranks;
    const uint64_t taken = world_.taken();
    uint64_t kept = 0;
    for (const AdmissionClass c : kAdmissionClasses) {
      const auto& of = status.classes[static_cast<size_t>(c)];
      const auto floor = config_.of(c).floor.Of(0);
      kept += floor - std::min(floor, of.running_sequences);
    }
    for (const AdmissionClass c : kAdmissionClasses) {
      const auto& of = status.classes[static_cast<size_t>(c)];
      const bool room_below = of.running_sequences + 3 <= config_.of(c).ceiling.Of(0);
      if (of.waiting > 0 && room_below) {
        ASSERT_LE(places, taken + kept);
      }
    }
    if (world_.admission.anybody_waits()) {
      ASSERT_GE(taken, 1u);
    }
  }

  std::mt19937 rng_;
  AdmissionConfig config_;
  AdmissionWorld world_;
};

TEST(AdmissionPropertyTest, BoundsLedgersAndTurnsHoldUnderAnyLoad) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Load(seed).Run();
    if (HasFailure()) return;
  }
}

// A class with requests waiting gets a place within its ageing and the times that the longest
// request of another runs, whatever the load above it.
TEST(AdmissionPropertyTest, NoClassStarves) {
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    std::mt19937 rng(seed);
    AdmissionConfig config;
    config.ahead = 0;
    for (ClassRules& rules : config.classes) rules.ageing = milliseconds(500);
    AdmissionWorld world(config, 100);
    world.ranks.seats = 2;
    std::map<uint64_t, MonoTime> ends;
    MonoTime last = world.clock.Now();
    for (int i = 0; i < 2000; ++i) {
      world.clock.Advance(milliseconds(10));
      for (int k = 0; k < 2; ++k) {  // more than there is room for, of both higher classes
        world.Ask({.admission_class =
                       rng() % 2 ? AdmissionClass::kInteractive : AdmissionClass::kDefault});
      }
      if (world.of(AdmissionClass::kBulk).waiting < 2)
        world.Ask({.admission_class = AdmissionClass::kBulk});
      for (const uint64_t number : world.numbers()) {
        if (!world.runs(number)) continue;
        if (ends.emplace(number, world.clock.Now() + milliseconds(10 + rng() % 90)).second &&
            world.asked(number).admission_class == AdmissionClass::kBulk) {
          last = world.clock.Now();
        }
        if (ends.at(number) <= world.clock.Now()) world.End(number);
      }
      ASSERT_LE(world.clock.Now() - last, milliseconds(500 + 3 * 100 + 40)) << "seed " << seed;
    }
    EXPECT_GT(world.of(AdmissionClass::kBulk).aged, 10u);
  }
}

}  // namespace
}  // namespace choir
