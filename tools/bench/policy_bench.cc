// policy_bench: what a routing decision costs, by policy and number of ranks, with loads that
// change in between; and what follows it: counting the work, and learning. Prompts have 2,000
// tokens and begin like some of those before them.
#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/version.h"
#include "router/membership/membership.h"
#include "router/policy/policy.h"
#include "router/policy/sticky_user.h"

namespace choir {
namespace {

constexpr int kDecisions = 20'000;
constexpr uint32_t kPromptTokens = 2'000, kBlockTokens = 32;
constexpr size_t kPrompts = 2'000, kBegins = 50, kUsers = 5'000;

std::unique_ptr<Membership> MakeRanks(size_t n) {
  auto membership = std::make_unique<Membership>(0);
  for (size_t i = 0; i < n; ++i) {
    const WorkerIndex worker = membership->Add("10.0.0.1:" + std::to_string(i));
    membership->OnConnecting(worker, 1);
    WorkerIdentity identity;
    identity.worker_id = "g" + std::to_string(i) + "r0";
    identity.group = static_cast<uint32_t>(i);
    identity.model_id = "a-model-of-some-name";
    identity.numerics_id = "0123456789abcdef0123456789abcdef";
    identity.protocol_version = kProtocolVersion;
    identity.kv_block_tokens = kBlockTokens;
    identity.incarnation = 1;
    CHOIR_CHECK(membership->OnHello(worker, identity).ok());
    membership->OnState(worker, {.ready = true, .epoch = 1});
  }
  return membership;
}

std::vector<PromptPrefix> MakePrompts(std::mt19937_64* rng) {
  std::vector<PromptPrefix> prompts;
  for (size_t i = 0; i < kPrompts; ++i) {
    std::vector<int32_t> tokens(kPromptTokens);
    const size_t shared = 500 + i % kBegins * 20;
    for (size_t t = 0; t < kPromptTokens; ++t) {
      tokens[t] = static_cast<int32_t>(t < shared ? i % kBegins * 7 + t : (*rng)() % 100'000);
    }
    prompts.push_back(MakePromptPrefix(tokens, "tenant", kBlockTokens));
  }
  return prompts;
}

// A worker's step: what it reports, and that one of its sequences got its first token.
void ChangeLoads(Membership* membership, std::deque<Placement>* placed, std::mt19937_64* rng,
                 size_t num_ranks) {
  const WorkerIndex worker(static_cast<uint32_t>((*rng)() % num_ranks));
  membership->OnLoad(worker, {.running = static_cast<uint32_t>((*rng)() % 8)});
  while (placed->size() > num_ranks * 4) {
    membership->Release(placed->front().worker, placed->front().counted_tokens);
    placed->pop_front();
  }
}

void PrintMicros(std::vector<double>* micros) {
  std::sort(micros->begin(), micros->end());
  std::printf(" p50 %6.2f us, p99 %6.2f us", (*micros)[kDecisions / 2],
              (*micros)[kDecisions * 99 / 100]);
}

void Bench(const std::string& name, size_t num_ranks) {
  std::mt19937_64 rng(1);
  const auto membership = MakeRanks(num_ranks);
  const std::vector<PromptPrefix> prompts = MakePrompts(&rng);
  const auto policy = MakePolicy({.name = name, .seed = 1});
  std::deque<Placement> placed;
  std::vector<double> decision, after;
  for (int i = 0; i < kDecisions; ++i) {
    ChangeLoads(membership.get(), &placed, &rng, num_ranks);
    PlaceQuery query{.num_tokens = kPromptTokens};
    query.prefix = &prompts[rng() % prompts.size()];
    query.session = SessionHash("tenant", std::to_string(rng() % kUsers));
    const MonoTime begin = Clock::Real().Now();
    const std::optional<Pick> pick = policy->Choose(membership->ranks(), query);
    const MonoTime decided = Clock::Real().Now();
    const Placement placement = pick->placement;
    policy->OnPlaced(query, *pick, *membership->Find(placement.worker));
    membership->Assign(placement.worker, placement.counted_tokens);
    after.push_back(Seconds(Clock::Real().Now() - decided) * 1e6);
    decision.push_back(Seconds(decided - begin) * 1e6);
    placed.push_back(placement);
  }
  std::printf("%-16s %6zu ranks: decision", name.c_str(), num_ranks);
  PrintMicros(&decision);
  std::printf("; after it");
  PrintMicros(&after);
  std::printf("\n");
}

int Main() {
  for (const char* name : {"least_load", "power_of_two", "prefix_affinity", "sticky_user"}) {
    for (const size_t ranks : {10, 1'000, 10'000}) Bench(name, ranks);
  }
  return 0;
}

}  // namespace
}  // namespace choir

int main() { return choir::Main(); }
