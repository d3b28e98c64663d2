#include "tests/sim/sim_world.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "tests/sim/sim_checks.h"
#include "tests/sim/sim_cluster.h"
#include "tests/sim/sim_limits.h"
#include "tests/sim/sim_requests.h"

namespace choir::sim {
namespace {

constexpr auto kDisasters = std::chrono::seconds(6);  // from the start
constexpr auto kLiveness = std::chrono::seconds(60);  // after them, for everything to end
constexpr auto kAftermath = std::chrono::seconds(8);  // for cancels to be answered

// One disaster: what, when and how long, drawn one after the other so that a seed stays a seed.
// Every second one befalls a request that has just come.
void DrawDisaster(Cluster* cluster, const std::vector<SimRequest>& requests) {
  SimRandom& random = cluster->random();
  MonoTime begin = cluster->time().Now();
  if (random.Chance(0.5)) {
    const auto which = random.Between(0, static_cast<int64_t>(requests.size()) - 1);
    begin += requests[static_cast<size_t>(which)].arrives + random.Micros(0, 80'000);
  } else {
    begin += random.Micros(0, 5'000'000);
  }
  const auto rank = static_cast<size_t>(random.Between(0, cluster->num_ranks() - 1));
  const auto router = static_cast<size_t>(random.Between(0, cluster->num_routers() - 1));
  const Duration shortly = random.Millis(1, 900);
  const Duration longer = random.Millis(50, 5000);
  const int64_t what = random.Between(0, 11);
  cluster->time().At(begin, [=] {
    switch (what) {
      case 0:
      case 1:
        return cluster->KillRank(rank, longer);
      case 2:
        return cluster->PauseRank(rank, shortly);
      case 3:
        return cluster->PauseRank(rank, longer);
      case 4:
        return cluster->CutLink(router, rank);
      case 5:
        return cluster->BlockLink(router, rank, shortly);
      case 6:
        return cluster->KillRouter(router, shortly);
      case 7:
        return cluster->SlowDisk(router, longer);
      case 8:
        return cluster->LoseRedis(longer);
      case 9:
      case 10:
        return cluster->KillGateway(shortly);
      default:
        return cluster->FullDisk(router, shortly);
    }
  });
}

// Few seats, short queues and little patience.
void DrawAdmission(SimRandom* random, ClusterOptions* cluster) {
  cluster->sequences_max = random->Between(1, 4);
  cluster->admission.ahead = static_cast<uint64_t>(random->Between(0, 2));
  for (ClassRules& rules : cluster->admission.classes) {
    rules.floor = {.is_share = false, .value = static_cast<double>(random->Between(0, 1))};
    rules.ceiling = {.is_share = false, .value = static_cast<double>(random->Between(1, 12))};
    rules.queue = static_cast<uint64_t>(random->Between(0, 12));
    rules.queue_timeout = random->Millis(50, 10'000);
    rules.ageing = random->Millis(10, 1000);
  }
}

ClusterOptions DrawCluster(SimRandom* random, const WorldOptions& options) {
  ClusterOptions cluster;
  cluster.groups = static_cast<uint32_t>(random->Between(1, 3));
  cluster.ranks = static_cast<uint32_t>(random->Between(1, 3));
  cluster.routers = static_cast<size_t>(random->Between(1, 2));
  cluster.kv_blocks = random->Between(40, 80);
  cluster.step_tokens = random->Between(8, 64);
  cluster.verbose = options.verbose;
  cluster.tight = random->Chance(0.5);
  if (cluster.tight) DrawAdmission(random, &cluster);
  if (random->Chance(0.4)) {
    cluster.limits = DrawLimits(random);
    cluster.shared_limits = random->Chance(0.5);
    cluster.limit_lease = random->Millis(300, 2000);  // a router says that it lives each 200 ms
  }
  cluster.content = random->Chance(0.3);
  if (random->Chance(0.4))
    cluster.results_bytes = static_cast<size_t>(random->Between(500, 100'000));
  return cluster;
}

struct Run {
  std::map<std::string, SimAnswer> answers;
  WorldReport report;
};

void Play(Cluster* cluster, const std::vector<SimRequest>& requests, bool calm,
          Failures* failures) {
  SimGateway& gateway = cluster->gateway();
  const MonoTime start = cluster->time().Now();
  for (const SimRequest& request : requests) {
    cluster->time().At(start + request.arrives, [&gateway, &request] { gateway.Send(request); });
    if (calm || !request.cancelled_after) continue;
    cluster->time().At(start + request.arrives + *request.cancelled_after,
                       [&gateway, &request] { gateway.Cancel(request.name); });
  }
  const auto done = [&] {
    return gateway.answers().size() == requests.size() && gateway.num_open() == 0;
  };
  const MonoTime end = start + kDisasters + kLiveness;
  while (!done() && cluster->time().RunOne(end)) {
    if (++cluster->events % 8 == 0) CheckBounds(*cluster, failures);
  }
  const MonoTime quiet = std::max(cluster->time().Now(), start + kDisasters) + kAftermath;
  while (cluster->time().RunOne(quiet)) ++cluster->events;
}

// The same requests where nothing happens: what each must give.
std::map<std::string, SimAnswer> Undisturbed(std::vector<SimRequest> requests, bool content) {
  for (SimRequest& request : requests) request.timeout_seconds = 600;
  Cluster cluster(ClusterOptions{.groups = 1, .ranks = 1, .routers = 1, .content = content},
                  /*seed=*/1, Statics());
  cluster.RunFor(std::chrono::milliseconds(200));
  Failures ignored;
  Play(&cluster, requests, /*calm=*/true, &ignored);
  return cluster.gateway().answers();
}

}  // namespace

WorldReport RunWorld(const WorldOptions& options) {
  SimRandom draw(options.seed);
  const ClusterOptions shape = DrawCluster(&draw, options);
  const auto count = static_cast<size_t>(draw.Between(3, 24));
  const std::vector<SimRequest> requests = DrawRequests(&draw, count, std::chrono::seconds(5));
  Cluster cluster(shape, options.seed, Statics());
  cluster.RunFor(std::chrono::milliseconds(200));
  const int64_t disasters = options.calm ? 0 : draw.Between(0, 8);
  for (int64_t i = 0; i < disasters; ++i) DrawDisaster(&cluster, requests);
  const MonoTime start = cluster.time().Now();
  WorldReport report;
  Play(&cluster, requests, options.calm, &report.failures);
  report.requests = requests.size();
  report.events = cluster.events;
  report.resumes = cluster.gateway().resumes();
  report.taken_up = cluster.gateway().taken_up();
  report.virtual_seconds = Seconds(cluster.time().Now() - start);
  const auto expected = Undisturbed(requests, shape.content);
  for (const auto& [name, answer] : cluster.gateway().answers()) {
    ++(answer.cancelled         ? report.cancelled
       : answer.error.http != 0 ? report.failed
                                : report.finished);
  }
  CheckAnswers(cluster, requests, expected, &report.failures);
  CheckAudit(cluster, requests, &report.failures);
  CheckLimits(cluster, requests, &report.failures);
  CheckCeilings(cluster, &report.failures);
  CheckLedgers(cluster, &report.failures);
  return report;
}

}  // namespace choir::sim
