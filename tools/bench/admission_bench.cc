// admission_bench: what the router's admission costs a request, by how many wait and of how many
// tenants: to come in and wait, and to be let run and end, with the queue as long as it says.
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "router/admission/admission.h"

namespace choir {
namespace {

constexpr uint64_t kSeats = 256;
constexpr int kSample = 20'000;

class World {
 public:
  explicit World(size_t tenants) : tenants_(tenants), admission_(Config(), UINT64_MAX) { Tell(); }

  void Come() {
    const uint64_t number = ++last_;
    const AdmissionClass c = kAdmissionClasses[1 + number % 3];
    auto entered = admission_.Enter({.number = number,
                                     .tenant = "tenant-" + std::to_string(rng_() % tenants_),
                                     .admission_class = c,
                                     .deadline = now_ + std::chrono::hours(24)},
                                    now_);
    auto permit = std::move(std::get<std::unique_ptr<Permit>>(entered));
    CHOIR_CHECK(!admission_.Wait(*permit, {.prompt = 1 + rng_() % 2000, .output_max = 500}, now_));
    permits_.emplace_back(std::move(permit));
    Let();
  }
  // The oldest that runs ends, and the next one is let run.
  void Go() {
    now_ += std::chrono::milliseconds(1);
    const uint64_t number = running_.front();
    running_.pop_front();
    permits_[number - 1]->End({.tokens = 700, .output_tokens = 300, .ended_well = true}, now_);
    permits_[number - 1].reset();
    Let();
  }

 private:
  static AdmissionConfig Config() {
    AdmissionConfig config;
    for (ClassRules& rules : config.classes) {
      rules.queue = UINT64_MAX / 2;
      rules.queue_timeout = std::chrono::hours(24);
    }
    return config;
  }
  void Let() {
    while (true) {
      Tell();
      const auto next = admission_.Next(now_);
      if (!next) return;
      permits_[*next - 1]->Placed();
      running_.push_back(*next);
    }
  }
  void Tell() {
    admission_.SetCapacity({.ranks = 1,
                            .seats = kSeats,
                            .bounded = true,
                            .free = kSeats - std::min<uint64_t>(kSeats, running_.size()),
                            .over = running_.size() - std::min<uint64_t>(kSeats, running_.size())});
  }

  const size_t tenants_;
  MonoTime now_{std::chrono::hours(1)};
  Admission admission_;
  uint64_t last_ = 0;
  std::mt19937_64 rng_{1};
  std::deque<std::unique_ptr<Permit>> permits_;  // by number - 1
  std::deque<uint64_t> running_;
};

double MicrosOf(World* world, void (World::*what)()) {
  const MonoTime began = Clock::Real().Now();
  for (int i = 0; i < kSample; ++i) (world->*what)();
  return Seconds(Clock::Real().Now() - began) * 1e6 / kSample;
}

void Bench(uint64_t waiting, size_t tenants) {
  const size_t before = mallinfo2().uordblks;
  World world(tenants);
  for (uint64_t i = kSample; i < waiting + kSeats; ++i) world.Come();
  const double come = MicrosOf(&world, &World::Come);
  const auto bytes = static_cast<double>(mallinfo2().uordblks - before);
  const double go = MicrosOf(&world, &World::Go);
  std::printf(
      "%9llu waiting, %7zu tenants: to come %6.2f us, to end and let the next run %6.2f us, "
      "%5.0f bytes a request\n",
      static_cast<unsigned long long>(waiting), tenants, come, go,
      bytes / static_cast<double>(waiting + kSeats));
}

}  // namespace
}  // namespace choir

int main() {
  for (const uint64_t waiting : {20'000, 100'000, 1'000'000}) {
    for (const size_t tenants : {1, 100, 10'000}) choir::Bench(waiting, tenants);
  }
  return 0;
}
