#include "tests/sim/sim_cluster.h"

#include <algorithm>
#include <cstdio>

namespace choir::sim {

Cluster::Cluster(const ClusterOptions& options, uint64_t seed, const RouterStatics& statics)
    : options_(options),
      random_(seed * 2 + 1),
      runs_(options.routers),
      redis_(&time_, &random_, fmt::format("seed{}", seed)),
      groups_(options.groups) {
  const SimModel model = {.vocab = statics.model->vocab_size(),
                          .context_length = static_cast<int32_t>(statics.model->context_length())};
  std::vector<SimRank*> ranks;
  for (uint32_t g = 0; g < options.groups; ++g) {
    for (uint32_t r = 0; r < options.ranks; ++r) {
      RankOptions rank;
      rank.group = g;
      rank.rank = r;
      rank.group_size = options.ranks;
      rank.kv_blocks = options.kv_blocks;
      rank.step_tokens = options.step_tokens;
      rank.sequences_max = std::min(options.sequences_max, options.step_tokens);
      ranks_.push_back(std::make_unique<SimRank>(&time_, &random_, model, rank));
      ranks_.back()->Boot();
      ranks.push_back(ranks_.back().get());
    }
    TryForm(g);
  }
  const SimRouterOptions router_options = {.admission = options.admission,
                                           .requests_max = options.requests_max,
                                           .limits = options.limits,
                                           .redis = options.shared_limits ? &redis_ : nullptr,
                                           .limit_lease = options.limit_lease,
                                           .content = options.content,
                                           .results_bytes = options.results_bytes};
  std::vector<SimRouter*> routers;
  for (size_t i = 0; i < options.routers; ++i) {
    const std::string name = fmt::format("r{}", i);
    disks_.push_back(std::make_unique<SimDisk>(&time_, &random_, name, i, &runs_));
    routers_.push_back(std::make_unique<SimRouter>(name, &time_, &random_, statics, ranks,
                                                   disks_.back().get(), router_options));
    routers_.back()->Boot();
    routers.push_back(routers_.back().get());
  }
  gateway_ = std::make_unique<SimGateway>(&time_, &random_, routers);
}

// Routers first: their streams end at ranks that are still there.
Cluster::~Cluster() { routers_.clear(); }

void Cluster::RunFor(Duration time) {
  const MonoTime end = time_.Now() + time;
  while (time_.RunOne(end)) ++events;
}

void Cluster::Say(const std::string& what) {
  disturbed_ = true;
  if (options_.verbose) {
    std::printf("%10.6f %s\n", Seconds(time_.Now().time_since_epoch()) - 3600, what.c_str());
  }
}

void Cluster::EndEpoch(uint32_t group, const std::string& why) {
  ++groups_[group].forming;
  ForRanks(group, [&](SimRank& rank) {
    time_.After(random_.Millis(0, 20), [this, &rank, why, group, form = groups_[group].forming] {
      if (form == groups_[group].forming) rank.SetEpoch(0, why);
    });
  });
  // It may be whole again by then: nobody comes back any more who would try.
  time_.After(std::chrono::milliseconds(21), [this, group, form = groups_[group].forming] {
    if (form == groups_[group].forming) TryForm(group);
  });
}

// When all its ranks are there and run: the next epoch.
void Cluster::TryForm(uint32_t group) {
  const uint64_t form = ++groups_[group].forming;
  time_.After(random_.Millis(25, 80), [this, group, form] {
    if (form != groups_[group].forming) return;
    bool all = true;
    ForRanks(group, [&](SimRank& rank) { all &= rank.alive() && !rank.paused(); });
    if (!all) return;  // whoever comes back tries again
    const uint64_t epoch = ++groups_[group].last_epoch;
    ForRanks(group, [&](SimRank& rank) {
      time_.After(random_.Micros(0, 2000), [this, &rank, epoch, group, form] {
        if (form == groups_[group].forming) rank.SetEpoch(epoch, "");
      });
    });
  });
}

void Cluster::KillRank(size_t rank, Duration time) {
  if (!ranks_[rank]->alive()) return;
  const uint32_t group = ranks_[rank]->options().group;
  Say(fmt::format("kill rank {} for {:.3f} s", rank, Seconds(time)));
  ranks_[rank]->Die();
  EndEpoch(group, "a rank died");
  time_.After(time, [this, rank, group] {
    ranks_[rank]->Boot();
    TryForm(group);
  });
}

// Beyond two seconds of silence its group goes on without it, until it is back.
void Cluster::PauseRank(size_t rank, Duration time) {
  if (!ranks_[rank]->alive()) return;
  const uint32_t group = ranks_[rank]->options().group;
  Say(fmt::format("pause rank {} for {:.3f} s", rank, Seconds(time)));
  ranks_[rank]->PauseUntil(time_.Now() + time);
  if (time > std::chrono::seconds(2)) {
    time_.After(std::chrono::seconds(2), [this, group] { EndEpoch(group, "a rank is silent"); });
  }
  // It may come back to a group that is waiting for it.
  time_.After(time + std::chrono::milliseconds(1), [this, rank, group] {
    if (ranks_[rank]->epoch() == 0) TryForm(group);
  });
}

void Cluster::LoseCount(Duration time) {
  const MonoTime now = time_.Now();
  apart_.push_back({now, now + time + options_.limit_lease + std::chrono::seconds(1)});
}

void Cluster::KillRouter(size_t router, Duration time) {
  if (!routers_[router]->alive()) return;
  Say(fmt::format("kill router {} for {:.3f} s", router, Seconds(time)));
  LoseCount(time);
  routers_[router]->Die();
  gateway_->OnRouterDied(routers_[router].get());
  time_.After(time, [this, router] { routers_[router]->Boot(); });
}

void Cluster::KillGateway(Duration time) {
  if (!gateway_->alive()) return;
  Say(fmt::format("kill the gateway for {:.3f} s", Seconds(time)));
  gateway_->Die();
  time_.After(time, [this] { gateway_->Boot(); });
}

void Cluster::CutLink(size_t router, size_t rank) {
  Say(fmt::format("cut the link of router {} and rank {}", router, rank));
  routers_[router]->CutLink(rank);
}

void Cluster::BlockLink(size_t router, size_t rank, Duration time) {
  Say(fmt::format("hold up router {} and rank {} for {:.3f} s", router, rank, Seconds(time)));
  routers_[router]->BlockLink(rank, time_.Now() + time);
}

void Cluster::SlowDisk(size_t router, Duration time) {
  Say(fmt::format("slow disk at router {} for {:.3f} s", router, Seconds(time)));
  disks_[router]->SlowUntil(time_.Now() + time);
}

void Cluster::FullDisk(size_t router, Duration time) {
  Say(fmt::format("full disk at router {} for {:.3f} s", router, Seconds(time)));
  disks_[router]->FullUntil(time_.Now() + time);
}

void Cluster::LoseRedis(Duration time) {
  if (!options_.shared_limits) return;
  Say(fmt::format("redis is away for {:.3f} s", Seconds(time)));
  LoseCount(time);
  redis_.AwayUntil(time_.Now() + time);
}

}  // namespace choir::sim
