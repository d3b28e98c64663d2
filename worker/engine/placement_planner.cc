#include "worker/engine/placement_planner.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/base/check.h"
#include "worker/engine/placement_rebuild.h"

namespace choir {
namespace {

// In units of a rank's mean load.
constexpr double kGainMin = 0.02;    // of an expert read
constexpr double kLayerGain = 0.05;  // of a layer's steps together
constexpr double kStuck = 1.1;       // a peak from which on it is tried from nothing
constexpr int32_t kNobody = -1;

// One layer's placement while it changes. Loads are scaled so that the mean rank has 1.
class LayerPlanner {
 public:
  LayerPlanner(const PlacementProblem& problem, const ExpertPlacement& current,
               std::span<const uint64_t> loads, std::vector<int64_t>* budget)
      : experts_(current.num_experts()),
        ranks_(current.num_ranks()),
        slots_(problem.slots),
        copies_kept_(problem.cover ? 2 : 1),
        budget_(*budget),
        copies_(static_cast<size_t>(experts_), 0),
        has_(static_cast<size_t>(experts_) * static_cast<size_t>(ranks_), 0),
        load_(static_cast<size_t>(experts_)),
        rank_load_(static_cast<size_t>(ranks_), 0),
        change_(static_cast<size_t>(ranks_), 0),
        experts_of_(static_cast<size_t>(ranks_)) {
    const double total =
        static_cast<double>(std::accumulate(loads.begin(), loads.end(), uint64_t{0}));
    for (size_t e = 0; e < load_.size(); ++e) {
      load_[e] = total == 0 ? 0 : static_cast<double>(loads[e]) * ranks_ / total;
    }
    for (int32_t r = 0; r < ranks_; ++r) {
      for (const int32_t e : current.ExpertsOf(r)) Put(e, r);
      CHOIR_CHECK(static_cast<int32_t>(Of(r).size()) <= slots_);
    }
    for (int32_t r = 0; r < ranks_; ++r) {
      for (const int32_t e : Of(r)) LoadOf(r) += ShareOf(e);
    }
  }

  // Second copies for experts with one, those with most rows first. Returns how many were made.
  int32_t Cover() {
    std::vector<int32_t> order(static_cast<size_t>(experts_));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return At(load_, a) > At(load_, b); });
    int32_t made = 0;
    for (const int32_t e : order) made += At(copies_, e) == 1 && CoverOne(e) ? 1 : 0;
    return made;
  }

  // Whether experts with one copy are left that a later plan can give a second one.
  bool CoverGoesOn() {
    bool room = false;
    for (int32_t r = 0; r < ranks_; ++r) room = room || (HasRoom(r) && !MayRead(r));
    return room && *std::min_element(copies_.begin(), copies_.end()) == 1;
  }

  // Relieves the busiest rank while that pays. Returns what was gained.
  double Balance() {
    const double before = Peak();
    while (true) {
      const Change best = BestChange();
      if (best.from == kNobody) return before - Peak();
      Apply(best);
    }
  }

  double Peak() const { return *std::max_element(rank_load_.begin(), rank_load_.end()); }

  ExpertPlacement placement() const {
    std::vector<std::vector<int32_t>> sorted = experts_of_;
    for (std::vector<int32_t>& experts : sorted) std::sort(experts.begin(), experts.end());
    return ExpertPlacement(experts_, std::move(sorted));
  }

 private:
  // `expert` goes from the busiest rank `from` to `to`, or also stays (copy); to nobody: it is only
  // dropped. A guest of `to` may go the other way (kNobody: none does), be copied so, or be
  // dropped. Or else: the first `spread` ranks of roomy_ that do not have the expert get copies.
  enum class Guest : uint8_t { kGoes, kIsCopied, kIsDropped };
  struct Change {
    int32_t from = kNobody, expert = 0, to = kNobody, guest = kNobody;
    bool copy = false;
    Guest how = Guest::kGoes;
    int32_t spread = 0;
    bool GuestLeaves() const { return guest != kNobody && how != Guest::kIsCopied; }
    bool GuestComes() const { return guest != kNobody && how != Guest::kIsDropped; }
    int32_t Reads() const { return (to != kNobody) + GuestComes() + spread; }
  };

  template <class T>
  static T& At(std::vector<T>& v, int32_t i) {
    return v[static_cast<size_t>(i)];
  }
  template <class T>
  static const T& At(const std::vector<T>& v, int32_t i) {
    return v[static_cast<size_t>(i)];
  }
  std::vector<int32_t>& Of(int32_t rank) { return At(experts_of_, rank); }
  double& LoadOf(int32_t rank) { return At(rank_load_, rank); }
  bool Has(int32_t rank, int32_t expert) const { return At(has_, rank * experts_ + expert) != 0; }
  bool HasRoom(int32_t rank) { return static_cast<int32_t>(Of(rank).size()) < slots_; }
  bool MayRead(int32_t rank) const { return At(budget_, rank) > 0; }
  bool MayDrop(int32_t expert) const { return At(copies_, expert) > copies_kept_; }
  double ShareOf(int32_t expert) const { return At(load_, expert) / At(copies_, expert); }

  // Loads of ranks are not kept up by these two.
  void Put(int32_t expert, int32_t rank) {
    Of(rank).push_back(expert);
    At(has_, rank * experts_ + expert) = 1;
    ++At(copies_, expert);
  }
  void Take(int32_t expert, int32_t rank) {
    std::erase(Of(rank), expert);
    At(has_, rank * experts_ + expert) = 0;
    --At(copies_, expert);
  }

  // Adds to change_ what the ranks' loads become by the change.
  void AddChange(const Change& c) {
    std::fill(change_.begin(), change_.end(), 0);
    if (c.spread > 0) return AddSpread(c);
    AddChange(c.expert, c.copy ? kNobody : c.from, c.to);
    if (c.guest == kNobody) return;
    AddChange(c.guest, c.GuestLeaves() ? c.to : kNobody, c.GuestComes() ? c.from : kNobody);
  }

  // By this: `expert` leaves `from` and comes to `to`.
  void AddChange(int32_t expert, int32_t from, int32_t to) {
    const double before = ShareOf(expert);
    const int32_t copies = At(copies_, expert) - (from != kNobody) + (to != kNobody);
    const double after = At(load_, expert) / copies;
    if (from != kNobody) At(change_, from) -= before;
    if (to != kNobody) At(change_, to) += after;
    if (after == before) return;
    for (int32_t r = 0; r < ranks_; ++r) {
      if (r != from && Has(r, expert)) At(change_, r) += after - before;
    }
  }

  void AddSpread(const Change& c) {
    const double before = ShareOf(c.expert);
    const double after = At(load_, c.expert) / (At(copies_, c.expert) + c.spread);
    for (int32_t r = 0; r < ranks_; ++r) {
      if (Has(r, c.expert)) At(change_, r) = after - before;
    }
    EachOfSpread(c, [&](int32_t rank) { At(change_, rank) = after; });
  }

  template <class Use>
  void EachOfSpread(const Change& c, const Use& use) {
    int32_t left = c.spread;
    for (const int32_t r : roomy_) {
      if (left == 0 || Has(r, c.expert)) continue;
      use(r);
      --left;
    }
  }

  // What `to` has after it: cheap, and refuses most changes.
  double LoadOfTarget(const Change& c) {
    double load = LoadOf(c.to) + At(load_, c.expert) / (At(copies_, c.expert) + c.copy);
    if (c.GuestLeaves()) {
      load -= ShareOf(c.guest);
    } else if (c.guest != kNobody) {
      load -= ShareOf(c.guest) - At(load_, c.guest) / (At(copies_, c.guest) + 1);
    }
    return load;
  }

  // The load of the busiest of the ranks that the change concerns, after it.
  double PeakAfter(const Change& c) {
    AddChange(c);
    double peak = 0;
    for (int32_t r = 0; r < ranks_; ++r) {
      if (r == c.from || r == c.to || At(change_, r) > 0) {
        peak = std::max(peak, LoadOf(r) + At(change_, r));
      }
    }
    return peak;
  }

  void Consider(const Change& c, Change* best, double* best_gain) {
    const double wanted = std::max(kGainMin, *best_gain) * std::max(c.Reads(), 1);
    if (c.to != kNobody && LoadOf(c.from) - LoadOfTarget(c) < wanted) return;
    const double gain = LoadOf(c.from) - PeakAfter(c);
    if (gain < wanted || gain <= *best_gain * std::max(c.Reads(), 1)) return;
    *best = c;
    *best_gain = gain / std::max(c.Reads(), 1);
  }

  Change BestChange() {
    const auto busiest = static_cast<int32_t>(
        std::max_element(rank_load_.begin(), rank_load_.end()) - rank_load_.begin());
    FindRoom();
    Change best;
    double gain = 0;
    for (const int32_t e : Of(busiest)) {
      if (At(load_, e) == 0) continue;
      if (MayDrop(e)) Consider({.from = busiest, .expert = e}, &best, &gain);
      const auto ranks = static_cast<int32_t>(
          std::count_if(roomy_.begin(), roomy_.end(), [&](int32_t r) { return !Has(r, e); }));
      for (int32_t n = 2; n <= ranks; ++n) {
        Consider({.from = busiest, .expert = e, .spread = n}, &best, &gain);
      }
      for (int32_t to = 0; to < ranks_; ++to) {
        if (to == busiest || Has(to, e) || !MayRead(to)) continue;
        ConsiderMoves({.from = busiest, .expert = e, .to = to}, &best, &gain);
      }
    }
    return best;
  }

  void FindRoom() {
    roomy_.clear();
    for (int32_t r = 0; r < ranks_; ++r) {
      if (HasRoom(r) && MayRead(r)) roomy_.push_back(r);
    }
    std::stable_sort(roomy_.begin(), roomy_.end(),
                     [&](int32_t a, int32_t b) { return LoadOf(a) < LoadOf(b); });
  }

  void ConsiderMoves(Change c, Change* best, double* gain) {
    for (const bool copy : {false, true}) {
      c.copy = copy;
      c.guest = kNobody;
      if (HasRoom(c.to)) Consider(c, best, gain);
      for (const int32_t guest : Of(c.to)) {
        c.guest = guest;
        if (MayDrop(guest)) {
          c.how = Guest::kIsDropped;
          Consider(c, best, gain);
        }
        if (Has(c.from, guest) || !MayRead(c.from) || (copy && !HasRoom(c.from))) continue;
        c.how = Guest::kGoes;
        Consider(c, best, gain);
        if (!HasRoom(c.to)) continue;
        c.how = Guest::kIsCopied;
        Consider(c, best, gain);
      }
    }
  }

  void Apply(const Change& c) {
    AddChange(c);
    for (int32_t r = 0; r < ranks_; ++r) LoadOf(r) += At(change_, r);
    if (c.spread > 0) return EachOfSpread(c, [&](int32_t rank) { Read(c.expert, rank); });
    if (!c.copy) Take(c.expert, c.from);
    if (c.GuestLeaves()) Take(c.guest, c.to);
    if (c.to != kNobody) Read(c.expert, c.to);
    if (c.GuestComes()) Read(c.guest, c.from);
  }

  void Read(int32_t expert, int32_t rank) {
    Put(expert, rank);
    --At(budget_, rank);
  }

  // On the rank with most room, then least load; where only ranks with it have room, one of their
  // guests is moved there.
  bool CoverOne(int32_t expert) {
    int32_t to = kNobody;
    for (int32_t r = 0; r < ranks_; ++r) {
      if (Has(r, expert) || !HasRoom(r) || !MayRead(r)) continue;
      if (to == kNobody || Of(r).size() < Of(to).size() ||
          (Of(r).size() == Of(to).size() && LoadOf(r) < LoadOf(to))) {
        to = r;
      }
    }
    if (to == kNobody) to = MakeRoom(expert);
    if (to == kNobody) return false;
    Apply({.from = kNobody, .expert = expert, .to = to, .copy = true});
    return true;
  }

  // A full rank without the expert that gives another one to a rank with room.
  int32_t MakeRoom(int32_t expert) {
    for (int32_t with_room = 0; with_room < ranks_; ++with_room) {
      if (!HasRoom(with_room) || !MayRead(with_room)) continue;
      for (int32_t r = 0; r < ranks_; ++r) {
        if (Has(r, expert) || !MayRead(r)) continue;
        for (const int32_t guest : Of(r)) {
          if (Has(with_room, guest)) continue;
          Apply({.from = r, .expert = guest, .to = with_room});
          return r;
        }
      }
    }
    return kNobody;
  }

  const int32_t experts_, ranks_, slots_, copies_kept_;
  std::vector<int64_t>& budget_;  // by rank: experts it may still read
  std::vector<int32_t> copies_;   // by expert
  std::vector<uint8_t> has_;      // [ranks, experts]
  std::vector<double> load_;      // by expert
  std::vector<double> rank_load_, change_;
  std::vector<int32_t> roomy_;  // ranks that may get an expert more, those with least load first
  std::vector<std::vector<int32_t>> experts_of_;  // by rank
};

// Layers that gain most first, for the budget may not do for all.
std::vector<size_t> LayerOrder(const PlacementProblem& p) {
  const size_t experts = p.loads.size() / p.current.size();
  std::vector<double> excess;  // rows of the busiest rank beyond the mean
  for (size_t l = 0; l < p.current.size(); ++l) {
    const std::span<const uint64_t> loads = p.loads.subspan(l * experts, experts);
    const double rows =
        static_cast<double>(std::accumulate(loads.begin(), loads.end(), uint64_t{0}));
    excess.push_back((RankImbalance(p.current[l], loads) - 1) * rows);
  }
  std::vector<size_t> order(p.current.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return excess[a] > excess[b]; });
  return order;
}

// Experts that each rank has to read.
std::vector<int64_t> ReadsOf(const ExpertPlacement& from, const ExpertPlacement& to) {
  std::vector<int64_t> reads(static_cast<size_t>(to.num_ranks()), 0);
  for (int32_t r = 0; r < to.num_ranks(); ++r) {
    for (const int32_t e : to.ExpertsOf(r)) reads[static_cast<size_t>(r)] += from.SlotOf(r, e) < 0;
  }
  return reads;
}

bool Fits(const std::vector<int64_t>& reads, const std::vector<int64_t>& budget) {
  return std::equal(reads.begin(), reads.end(), budget.begin(),
                    [](int64_t wanted, int64_t left) { return wanted <= left; });
}

// A layer's new placement, or the one in force.
ExpertPlacement PlanLayer(const PlacementProblem& problem, const ExpertPlacement& current,
                          std::span<const uint64_t> loads, const std::vector<int64_t>& budget) {
  std::vector<int64_t> left = budget;
  LayerPlanner planner(problem, current, loads, &left);
  const double before = planner.Peak();
  const bool covers = problem.cover && planner.Cover() > 0;
  const bool waits = problem.cover && planner.CoverGoesOn();  // room is not for balance then
  const bool gains = !waits && planner.Balance() >= kLayerGain;
  const ExpertPlacement stepwise = covers || gains ? planner.placement() : current;
  const double peak = covers || gains ? planner.Peak() : before;
  if (waits || peak < kStuck) return stepwise;
  const auto rebuilt = RebuildPlacement(current, loads, problem.slots, problem.cover ? 2 : 1);
  if (!rebuilt) return stepwise;
  std::vector<int64_t> any(budget.size(), INT64_MAX);
  LayerPlanner polished(problem, *rebuilt, loads, &any);
  (void)polished.Balance();
  const ExpertPlacement whole = polished.placement();
  const bool better = peak - polished.Peak() >= kLayerGain;
  return better && Fits(ReadsOf(current, whole), budget) ? whole : stepwise;
}

}  // namespace

double RankImbalance(const ExpertPlacement& placement, std::span<const uint64_t> loads) {
  double total = 0, most = 0;
  for (int32_t r = 0; r < placement.num_ranks(); ++r) {
    double here = 0;
    for (const int32_t e : placement.ExpertsOf(r)) {
      here += static_cast<double>(loads[static_cast<size_t>(e)]) /
              static_cast<double>(placement.RanksOf(e).size());
    }
    total += here;
    most = std::max(most, here);
  }
  return total == 0 ? 1 : most * placement.num_ranks() / total;
}

PlannedPlacement PlanPlacement(const PlacementProblem& problem) {
  CHOIR_CHECK(!problem.current.empty() && problem.slots >= 1 && problem.moves_max >= 0);
  const auto experts = static_cast<size_t>(problem.current[0].num_experts());
  CHOIR_CHECK(problem.loads.size() == problem.current.size() * experts);
  PlannedPlacement plan{.layers = {problem.current.begin(), problem.current.end()}};
  std::vector<int64_t> budget(static_cast<size_t>(problem.current[0].num_ranks()),
                              problem.moves_max);
  for (const size_t l : LayerOrder(problem)) {
    plan.layers[l] =
        PlanLayer(problem, problem.current[l], problem.loads.subspan(l * experts, experts), budget);
    const std::vector<int64_t> reads = ReadsOf(problem.current[l], plan.layers[l]);
    for (size_t r = 0; r < reads.size(); ++r) budget[r] -= reads[r];
    plan.moves += std::accumulate(reads.begin(), reads.end(), int64_t{0});
  }
  return plan;
}

}  // namespace choir
