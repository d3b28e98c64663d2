// What a rank does by itself in a step whose rows all ranks have, against its oracle, and the
// oracle against the plan that exchanges follow.
#include <algorithm>
#include <numeric>

#include "tests/contract/kernels/gpu_ops_test.h"
#include "worker/comm/exchange_plan.h"
#include "worker/comm/local_collectives.h"

namespace choir {
namespace {

// Experts on ranks: each somewhere, some on several.
ExpertPlacement AnyPlacement(Random& random, int32_t experts, int32_t ranks) {
  std::vector<std::vector<int32_t>> experts_of(static_cast<size_t>(ranks));
  for (int32_t e = 0; e < experts; ++e) {
    const auto first = random.Int(0, ranks - 1);
    for (int32_t r = 0; r < ranks; ++r) {
      if (r == first || random.Int(0, 3) == 0) experts_of[static_cast<size_t>(r)].push_back(e);
    }
  }
  return ExpertPlacement(experts, std::move(experts_of));
}

struct Slots {
  int32_t ranks, experts;
  int64_t rows, top_k;
  ExpertPlacement placement;
  std::vector<int64_t> tokens;  // of each rank that count
  Tensor ids, copies, copy_rank, copy_slot;

  explicit Slots(Random& random)
      : ranks(static_cast<int32_t>(random.Int(1, 5))),
        experts(static_cast<int32_t>(random.Int(1, 20))),
        rows(random.Int(1, 20)),
        top_k(random.Int(1, std::min<int64_t>(experts, 8))),
        placement(AnyPlacement(random, experts, ranks)),
        ids(DType::kI32, {ranks * rows, top_k}),
        copies(DType::kI32, {experts + 1}),
        copy_rank(DType::kI32, {ranks * experts}),
        copy_slot(DType::kI32, {ranks * experts}) {
    std::fill_n(ids.view().data<int32_t>(), ids.view().num_elements(), -1);
    for (int32_t r = 0; r < ranks; ++r) {
      tokens.push_back(random.Int(0, rows));
      for (int64_t t = 0; t < tokens.back(); ++t) {
        Choose(random, ids.view().data<int32_t>() + (r * rows + t) * top_k);
      }
    }
    int32_t count = 0;
    for (int32_t e = 0; e < experts; ++e) {
      copies.view().data<int32_t>()[e] = count;
      for (const int32_t rank : placement.RanksOf(e)) {
        copy_rank.view().data<int32_t>()[count] = rank;
        copy_slot.view().data<int32_t>()[count++] = placement.SlotOf(rank, e);
      }
    }
    copies.view().data<int32_t>()[experts] = count;
  }

  PlaceChoicesArgs Args(int32_t self, const Tensor& slot_of, const Tensor& row_of) const {
    return {.expert_ids = ids,
            .copies = copies,
            .copy_rank = copy_rank,
            .copy_slot = copy_slot,
            .sources = ranks,
            .self = self,
            .slot_of = slot_of,
            .row_of = row_of};
  }
  Tensor SlotOf() const { return Tensor(DType::kI32, {ranks * rows, top_k}); }
  Tensor RowOf() const { return Tensor(DType::kI32, {rows * top_k}); }

 private:
  void Choose(Random& random, int32_t* to) const {
    std::vector<int32_t> all(static_cast<size_t>(experts));
    std::iota(all.begin(), all.end(), 0);
    for (size_t i = all.size() - 1; i > 0; --i) {
      std::swap(all[i], all[static_cast<size_t>(random.Int(0, static_cast<int64_t>(i)))]);
    }
    std::sort(all.begin(), all.begin() + top_k);
    std::copy_n(all.begin(), top_k, to);
  }
};

class SlotOps : public GpuOps {};

TEST_P(SlotOps, ChoicesArePlacedAsTheOracleDoesAndSoAreOnesOfNobody) {
  ForSeeds(60, [&](Random& random) {
    const Slots s(random);
    for (int32_t self = 0; self < s.ranks; ++self) {
      const Tensor slot_of = s.SlotOf(), want_slots = s.SlotOf();
      const Tensor row_of = s.RowOf(), want_rows = s.RowOf();
      gpu_.place_choices(s.Args(self, slot_of, row_of), Any(random));
      reference::PlaceChoices(s.Args(self, want_slots, want_rows));
      ExpectSameBytes(slot_of, want_slots, "slots");
      ExpectSameBytes(row_of, want_rows, "rows");
    }
  });
}

TEST_P(SlotOps, RowsAreGatheredAndThoseOfNobodyStay) {
  ForSeeds(30, [&](Random& random) {
    const int64_t rows = random.Int(1, 30), pairs = random.Int(0, 60), width = random.Int(1, 700);
    const Tensor x = random.Values(DType::kF32, {rows, width});
    const Tensor row_of(DType::kI32, {pairs});
    for (int64_t p = 0; p < pairs; ++p) {
      row_of.view().data<int32_t>()[p] = static_cast<int32_t>(random.Int(-2, rows - 1));
    }
    const Tensor got = random.Values(DType::kF32, {pairs, width}), want = got.Clone();
    gpu_.gather_rows({.x = x, .row_of = row_of, .y = got}, Any(random));
    reference::GatherRows({.x = x, .row_of = row_of, .y = want});
    ExpectSameBytes(got, want, "rows");
  });
}

INSTANTIATE_TEST_SUITE_P(Tables, SlotOps, testing::ValuesIn(GpuTableNames()), NameOfParam);

// Who computes a pair, and where its output comes back, is what the exchange that knows sizes does.
TEST(PlaceChoicesOracle, FollowsTheExchangePlan) {
  for (uint32_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const Slots s(random);
    const auto collectives = MakeLocalCollectives(s.ranks, 1, {});
    for (int32_t self = 0; self < s.ranks; ++self) {
      const Tensor slot_of = s.SlotOf(), row_of = s.RowOf();
      reference::PlaceChoices(s.Args(self, slot_of, row_of));
      ExchangePlan plan(collectives[static_cast<size_t>(self)].get(),
                        {.tokens_max = s.rows, .top_k = s.top_k, .hidden = 1});
      const auto* ids = s.ids.view().data<int32_t>();
      ASSERT_TRUE(plan.BeginTogether(s.placement, s.tokens, s.rows, ids).ok());
      const int64_t pairs = s.rows * s.top_k;
      std::vector<int32_t> want_slots(static_cast<size_t>(s.ranks * pairs), -1);
      std::vector<int32_t> want_rows(static_cast<size_t>(pairs), -1);
      for (int32_t r = 0; r < s.ranks; ++r) {
        for (const ExchangePlan::Pair& pair : plan.from(static_cast<size_t>(r)).pairs) {
          const auto* row = ids + r * pairs + pair.row * s.top_k;
          const int64_t k = std::find(row, row + s.top_k, pair.expert) - row;
          want_slots[static_cast<size_t>(r * pairs + pair.row * s.top_k + k)] =
              s.placement.SlotOf(self, pair.expert);
        }
        for (const int64_t slot : plan.to(static_cast<size_t>(r)).slots) {
          want_rows[static_cast<size_t>(slot)] = static_cast<int32_t>(r * pairs + slot);
        }
      }
      EXPECT_TRUE(std::equal(want_slots.begin(), want_slots.end(), slot_of.view().data<int32_t>()));
      EXPECT_TRUE(std::equal(want_rows.begin(), want_rows.end(), row_of.view().data<int32_t>()));
    }
  }
}

}  // namespace
}  // namespace choir
