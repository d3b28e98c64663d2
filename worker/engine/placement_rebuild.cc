#include "worker/engine/placement_rebuild.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace choir {
namespace {

constexpr double kLightCopy = 0.1;  // of a rank's mean load

using Sets = std::vector<std::vector<int32_t>>;  // experts of each rank

struct Shares {
  std::vector<double> load;     // by expert; the mean rank has 1
  std::vector<int32_t> copies;  // by expert
  double Of(size_t e) const { return load[e] / copies[e]; }
};

Shares DealCopies(std::span<const uint64_t> loads, int32_t ranks, int32_t slots,
                  int32_t copies_min) {
  const size_t experts = loads.size();
  const auto total = static_cast<double>(std::accumulate(loads.begin(), loads.end(), uint64_t{0}));
  Shares s{.load = std::vector<double>(experts, 0), .copies = std::vector<int32_t>(experts, 1)};
  for (size_t e = 0; e < experts && total > 0; ++e) {
    s.load[e] = static_cast<double>(loads[e]) * ranks / total;
  }
  int64_t room = int64_t{ranks} * slots - static_cast<int64_t>(experts);
  std::vector<size_t> order(experts);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return s.load[a] > s.load[b]; });
  for (const size_t e : order) {
    if (copies_min < 2 || ranks < 2 || room == 0) break;
    ++s.copies[e];
    --room;
  }
  for (; room > 0; --room) {
    size_t most = experts;
    for (size_t e = 0; e < experts; ++e) {
      if (s.copies[e] < ranks && (most == experts || s.Of(e) > s.Of(most))) most = e;
    }
    if (most == experts || s.Of(most) <= kLightCopy) break;
    ++s.copies[most];
  }
  return s;
}

std::optional<Sets> Pack(const Shares& s, int32_t ranks, int32_t slots) {
  std::vector<size_t> order(s.load.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return s.Of(a) > s.Of(b); });
  Sets sets(static_cast<size_t>(ranks));
  std::vector<double> load(sets.size(), 0);
  for (const size_t e : order) {
    std::vector<size_t> by_load(sets.size());
    std::iota(by_load.begin(), by_load.end(), size_t{0});
    std::stable_sort(by_load.begin(), by_load.end(),
                     [&](size_t a, size_t b) { return load[a] < load[b]; });
    int32_t left = s.copies[e];
    for (const size_t r : by_load) {
      if (left == 0 || static_cast<int32_t>(sets[r].size()) == slots) continue;
      sets[r].push_back(static_cast<int32_t>(e));
      load[r] += s.Of(e);
      --left;
    }
    if (left > 0) return std::nullopt;
  }
  for (std::vector<int32_t>& set : sets) std::sort(set.begin(), set.end());
  return sets;
}

// Gives each set to a rank that has much of it already.
Sets NumberAlike(Sets sets, const ExpertPlacement& current) {
  const auto ranks = static_cast<int32_t>(sets.size());
  struct Match {
    int64_t common;
    int32_t set, rank;
  };
  std::vector<Match> matches;
  for (int32_t i = 0; i < ranks; ++i) {
    for (int32_t r = 0; r < ranks; ++r) {
      const std::vector<int32_t>& set = sets[static_cast<size_t>(i)];
      const auto common = std::count_if(set.begin(), set.end(),
                                        [&](int32_t e) { return current.SlotOf(r, e) >= 0; });
      matches.push_back({common, i, r});
    }
  }
  std::stable_sort(matches.begin(), matches.end(),
                   [](const Match& a, const Match& b) { return a.common > b.common; });
  Sets numbered(sets.size());
  std::vector<bool> set_taken(sets.size()), rank_taken(sets.size());
  for (const Match& m : matches) {
    const auto set = static_cast<size_t>(m.set), rank = static_cast<size_t>(m.rank);
    if (set_taken[set] || rank_taken[rank]) continue;
    set_taken[set] = rank_taken[rank] = true;
    numbered[rank] = std::move(sets[set]);
  }
  return numbered;
}

}  // namespace

std::optional<ExpertPlacement> RebuildPlacement(const ExpertPlacement& current,
                                                std::span<const uint64_t> loads, int32_t slots,
                                                int32_t copies_min) {
  const int32_t ranks = current.num_ranks();
  std::optional<Sets> sets = Pack(DealCopies(loads, ranks, slots, copies_min), ranks, slots);
  if (!sets) return std::nullopt;
  return ExpertPlacement(current.num_experts(), NumberAlike(std::move(*sets), current));
}

}  // namespace choir
