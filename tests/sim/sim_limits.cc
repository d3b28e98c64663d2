#include "tests/sim/sim_limits.h"

#include <algorithm>
#include <map>

#include "common/base/check.h"
#include "router/limits/limit_scope.h"

namespace choir::sim {
namespace {

// What was admitted somewhere between two times.
struct Admitted {
  MonoTime sent, accepted;
  double amount = 0;
};

// The most by which a window has more than `capacity` and what leaks meanwhile; <= 0: none has.
double Excess(const std::vector<Admitted>& all, double capacity, double leak_per_second) {
  double worst = 0;
  for (const Admitted& first : all) {
    for (const Admitted& last : all) {
      if (last.accepted < first.sent) continue;
      double sum = 0;
      for (const Admitted& one : all) {
        if (one.sent >= first.sent && one.accepted <= last.accepted) sum += one.amount;
      }
      const double allowed = capacity + leak_per_second * Seconds(last.accepted - first.sent);
      worst = std::max(worst, sum - allowed - kRounding);
    }
  }
  return worst;
}

// By the outcomes of each name; a router that died took some with it.
std::map<std::string, uint64_t> TokensOnRecord(Cluster& cluster) {
  std::map<std::string, uint64_t> tokens;
  for (size_t i = 0; i < static_cast<size_t>(cluster.num_routers()); ++i) {
    for (const auto& [id, record] : cluster.disk(i).records()) {
      if (record.recalled) continue;  // costs nothing
      tokens[record.name] += record.usage.prompt_tokens + record.usage.output_tokens;
    }
  }
  return tokens;
}

struct OfTenant {
  std::vector<Admitted> requests, tokens;
};

std::map<std::string, OfTenant> Count(Cluster& cluster, const std::vector<SimRequest>& requests) {
  std::map<std::string, OfTenant> counted;
  std::map<std::string, uint64_t> tokens = TokensOnRecord(cluster);
  for (const SimRequest& request : requests) {
    const SimAnswer& answer = cluster.gateway().answers().at(request.name);
    if (!answer.accepted_at) continue;
    OfTenant& tenant = counted[request.tenant];
    tenant.requests.push_back({answer.sent_at, *answer.accepted_at, 1});
    tenant.tokens.push_back(
        {answer.sent_at, *answer.accepted_at, static_cast<double>(tokens[answer.asked_as])});
  }
  return counted;
}

// Whether this router and that one counted together all the time while `run` came in.
bool CountedTogether(const Cluster& cluster, const SimRun& run, const SimRun& other) {
  if (run.router == other.router) return true;
  if (!cluster.options().shared_limits) return false;
  return std::none_of(cluster.apart().begin(), cluster.apart().end(),
                      [&run](const Cluster::Apart& apart) {
                        return apart.from <= run.began_at && run.arrived <= apart.until;
                      });
}

// What was taken up from a lost router goes on whatever the limit says, and counts: so a tenant has
// more than its limit by no more than that, for as long as it runs, and nothing else is admitted
// meanwhile. While routers count apart each of them keeps to the limit on its own: its share is no
// more than the whole.
void CheckConcurrency(const Cluster& cluster, uint64_t limit, Failures* failures) {
  const std::vector<SimRun>& all = cluster.runs().all();
  for (const SimRun& run : all) {
    if (run.resumed) continue;
    uint64_t admitted = 1, before = 0;
    for (const SimRun& other : all) {
      if (&other == &run || other.tenant != run.tenant || !other.OpenAt(run.began)) continue;
      if (!CountedTogether(cluster, run, other)) continue;
      const bool never_apart = other.router == run.router || cluster.apart().empty() ||
                               run.began_at < cluster.apart().front().from;
      if (never_apart && !other.resumed) ++admitted;
      if (other.began_at < run.arrived - std::chrono::microseconds(1)) ++before;
    }
    if (admitted <= limit && before < limit) continue;
    failures->push_back(
        fmt::format("router {}: tenant {}: {} admitted at once, and one more where {} ran, of {}",
                    run.router, run.tenant, admitted, before, limit));
  }
}

}  // namespace

LimitConfig DrawLimits(SimRandom* random) {
  LimitConfig config;
  LimitRules& rules = config.default_tenant;
  if (random->Chance(0.6)) {
    rules.requests_per_second = static_cast<double>(random->Between(1, 40)) / 10;
    rules.burst = static_cast<uint64_t>(random->Between(1, 4));
  }
  if (random->Chance(0.4)) rules.concurrency = static_cast<uint64_t>(random->Between(1, 3));
  if (random->Chance(0.4)) {
    rules.tokens_per_minute = static_cast<uint64_t>(random->Between(100, 600));
  }
  CHOIR_CHECK(CompleteLimitRules(&rules).ok());
  return config;
}

void CheckLimits(Cluster& cluster, const std::vector<SimRequest>& requests, Failures* failures) {
  const ClusterOptions& options = cluster.options();
  if (!options.limits) return;
  const LimitRules& rules = options.limits->default_tenant;
  // A router that is killed forgets what it counted itself, one that comes back or has lost Redis
  // counts its share at first: a capacity each time. Each router without Redis has limits of its
  // own (decisions/0013).
  const auto routers = static_cast<double>(cluster.num_routers());
  const double counts = options.shared_limits ? 1 : routers;
  const double times = counts + routers * static_cast<double>(cluster.count_losses());
  for (const auto& [tenant, of] : Count(cluster, requests)) {
    const auto check = [&](const char* what, const std::vector<Admitted>& all, double capacity,
                           double leak_per_second) {
      // The share is used beside the shared count while it is away.
      const double leak = leak_per_second * (cluster.count_losses() > 0 ? routers + 1 : counts);
      const double excess = Excess(all, capacity * times, leak);
      if (excess <= 0) return;
      failures->push_back(
          fmt::format("tenant {}: {:g} {} more than allowed", tenant, excess, what));
    };
    if (rules.requests_per_second) {
      check("requests", of.requests, static_cast<double>(*rules.burst), *rules.requests_per_second);
    }
    if (rules.tokens_per_minute) {
      const auto tokens = static_cast<double>(*rules.tokens_per_minute);
      check("tokens", of.tokens, tokens, tokens / 60);
    }
  }
  if (rules.concurrency) CheckConcurrency(cluster, *rules.concurrency, failures);
}

}  // namespace choir::sim
