// How well a wait is foreseen, in virtual time: seats that compute at a known rate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <queue>

#include "tests/router/admission/admission_world.h"

namespace choir {
namespace {

constexpr double kTokensPerSecond = 700;  // of a seat

// Tenants that each keep so many requests of one size here.
class Load {
 public:
  struct Client {
    std::string tenant;
    uint64_t tokens = 0, requests = 0;
    bool comes_back = true;  // asks anew as soon as one of its requests has ended
  };
  struct Seen {
    double waited = 0, error = 0;  // sums, in seconds
    int starts = 0;
    double mean_wait() const { return waited / starts; }
    double mean_error() const { return error / starts; }
  };

  Load() { world_.ranks.seats = 2; }

  void Run(const std::vector<Client>& clients, double seconds_max) {
    const MonoTime end = world_.clock.Now() + std::chrono::duration_cast<Duration>(
                                                  std::chrono::duration<double>(seconds_max));
    for (uint64_t i = 0; i < 100; ++i) {
      for (const Client& client : clients) {
        if (i < client.requests) Ask(client);
      }
    }
    while (!ends_.empty() && ends_.top().first < end) {
      const auto [at, number] = ends_.top();
      ends_.pop();
      world_.clock.Advance(at - world_.clock.Now());
      const Client client = clients_.at(number);
      world_.End(number, {.tokens = client.tokens,
                          .output_tokens = static_cast<double>(client.tokens),
                          .ended_well = true});
      Collect();
      if (client.comes_back) Ask(client);
    }
  }
  const Seen& of(const std::string& tenant) { return seen_[tenant]; }
  AdmissionWorld& world() { return world_; }

 private:
  void Ask(const Client& client) {
    const AdmissionWorld::Asked asked = {.tenant = client.tenant,
                                         .work = {.output_max = client.tokens}};
    const AdmissionOutlook outlook = world_.Foresee(asked);
    const uint64_t number = world_.Ask(asked);
    clients_[number] = client;
    waiting_[number] = {world_.clock.Now(), outlook.runs ? 0 : outlook.wait_seconds};
    Collect();
  }
  // Those that have started.
  void Collect() {
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      if (!world_.runs(it->first)) {
        ++it;
        continue;
      }
      const Client& client = clients_.at(it->first);
      const double waited = Seconds(world_.clock.Now() - it->second.first);
      if (const auto told = it->second.second) {
        Seen& seen = seen_[client.tenant];
        seen.waited += waited;
        seen.error += std::abs(*told - waited);
        ++seen.starts;
      }
      const auto runs = std::chrono::duration<double>(client.tokens / kTokensPerSecond);
      ends_.emplace(world_.clock.Now() + std::chrono::duration_cast<Duration>(runs), it->first);
      it = waiting_.erase(it);
    }
  }

  using End = std::pair<MonoTime, uint64_t>;
  AdmissionWorld world_{[] {
    AdmissionConfig config;
    config.ahead = 0;
    return config;
  }()};
  std::map<uint64_t, Client> clients_;
  std::map<uint64_t, std::pair<MonoTime, std::optional<double>>> waiting_;
  std::priority_queue<End, std::vector<End>, std::greater<>> ends_;
  std::map<std::string, Seen> seen_;
};

// Tenants share alike: the one with large requests gets one seat's worth, its next request waits
// for seven of its own and as much work of the other's, most of which has not come yet. Mean error
// of what they are told, and mean wait: large 1.7 of 29.5 s, small 0.07 of 3.0 s. With the rate of
// the class alone it is 15.3 s for the large ones.
TEST(AdmissionWait, IsForeseenByATenantsOwnShare) {
  Load load;
  load.Run({{"large", 3000, 8}, {"small", 300, 8}}, 300);
  for (const std::string tenant : {"large", "small"}) {
    const Load::Seen& seen = load.of(tenant);
    EXPECT_GT(seen.starts, 50) << tenant;
    EXPECT_LT(seen.mean_error(), seen.mean_wait() / 8) << tenant;
  }
  AdmissionWorld& world = load.world();
  const auto deadline = world.clock.Now() + std::chrono::seconds(11);
  const auto ask = [&](const std::string& tenant) {
    return world.Foresee({.tenant = tenant, .work = {.output_max = 300}, .deadline = deadline});
  };
  EXPECT_FALSE(ask("small").refusal);
  const AdmissionOutlook large = ask("large");
  ASSERT_TRUE(large.refusal);
  EXPECT_EQ(large.refusal->code, "deadline");
  EXPECT_THAT(large.refusal->message, testing::HasSubstr("this tenant's requests"));
  EXPECT_NEAR(large.refusal->retry_after_seconds, 30 - 11, 6);
}

// Whoever has had much starts behind others that wait, also with nothing of its own in the queue.
TEST(AdmissionWait, IsForeseenForATenantThatIsAhead) {
  Load load;
  load.Run({{"once", 300, 8, false}}, 100);  // so that the rate is known
  AdmissionWorld& world = load.world();
  for (int i = 0; i < 2; ++i) world.Ask({.tenant = "ahead", .work = {.output_max = 3000}});
  for (int i = 0; i < 8; ++i) world.Ask({.tenant = "other", .work = {.output_max = 300}});
  const auto wait = world.Foresee({.tenant = "ahead"}).wait_seconds;
  ASSERT_TRUE(wait);
  EXPECT_GT(*wait, 2400 / (2 * kTokensPerSecond));
}

}  // namespace
}  // namespace choir
