#include "worker/comm/expert_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <random>

#include "tests/support/faulty_collectives.h"
#include "tests/support/ranks_on_hosts.h"
#include "tests/support/run_ranks.h"
#include "worker/comm/local_collectives.h"

namespace choir {
namespace {

struct Shape {
  int ranks = 1;
  int32_t experts = 8;
  int64_t top_k = 2;
  int64_t hidden = 12;
  DType payload = DType::kF32;
};

// A token of the whole group: what it is does not depend on the rank that owns it.
struct Token {
  std::vector<float> x;
  std::vector<int32_t> experts;  // ascending
};

std::vector<Token> MakeTokens(const Shape& shape, int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Token> tokens(static_cast<size_t>(count));
  for (Token& token : tokens) {
    for (int64_t i = 0; i < shape.hidden; ++i) {
      token.x.push_back(static_cast<float>(static_cast<double>(random() % 200001) / 1e5 - 1.0));
    }
    std::vector<int32_t> all(static_cast<size_t>(shape.experts));
    for (size_t e = 0; e < all.size(); ++e) all[e] = static_cast<int32_t>(e);
    std::shuffle(all.begin(), all.end(), random);
    token.experts.assign(all.begin(), all.begin() + shape.top_k);
    std::sort(token.experts.begin(), token.experts.end());
  }
  return tokens;
}

// Stands for an expert: any function of the row and the expert alone.
float ExpertOutput(int32_t expert, float x, int64_t i) {
  return std::sin(x * static_cast<float>(expert + 1)) + static_cast<float>(i) * 0.25f;
}

float Row(const TensorView& x, int64_t row, int64_t i) {
  const int64_t at = row * x.dim(1) + i;
  return x.dtype() == DType::kF32 ? x.f32()[at] : ToF32(x.b16()[at]);
}

// One rank's layer; the outputs of its tokens, [T * top_k][hidden].
void RunLayer(Collectives& c, ExpertExchange& exchange, const ExpertPlacement& placement,
              const Shape& shape, const std::vector<Token>& mine, std::vector<float>* y) {
  const auto T = static_cast<int64_t>(mine.size());
  std::vector<float> x;
  std::vector<int32_t> ids;
  for (const Token& token : mine) {
    x.insert(x.end(), token.x.begin(), token.x.end());
    ids.insert(ids.end(), token.experts.begin(), token.experts.end());
  }
  const auto rows =
      exchange.Dispatch(placement, TensorView(x.data(), DType::kF32, {T, shape.hidden}),
                        TensorView(ids.data(), DType::kI32, {T, shape.top_k}), shape.payload);
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(std::vector(rows->experts.begin(), rows->experts.end()), placement.ExpertsOf(c.rank()));
  ASSERT_EQ(rows->offsets.size(), rows->experts.size() + 1);
  ASSERT_EQ(rows->x.dtype(), shape.payload);
  ASSERT_EQ(rows->offsets.back(), rows->x.dim(0));
  std::vector<float> out(static_cast<size_t>(rows->x.dim(0) * shape.hidden));
  for (size_t e = 0; e + 1 < rows->offsets.size(); ++e) {
    for (int64_t r = rows->offsets[e]; r < rows->offsets[e + 1]; ++r) {
      for (int64_t i = 0; i < shape.hidden; ++i) {
        out[static_cast<size_t>(r * shape.hidden + i)] =
            ExpertOutput(rows->experts[e], Row(rows->x, r, i), i);
      }
    }
  }
  y->assign(static_cast<size_t>(T * shape.top_k * shape.hidden), -1.0f);
  const Status combined =
      exchange.Combine(TensorView(out.data(), DType::kF32, {rows->x.dim(0), shape.hidden}),
                       TensorView(y->data(), DType::kF32, {T * shape.top_k, shape.hidden}));
  ASSERT_TRUE(combined.ok()) << combined;
}

// The layer on `shape.ranks` ranks, tokens dealt out unevenly (rank 0 gets none when there are
// others).
std::vector<float> RunGroup(const Shape& shape, const std::vector<Token>& tokens,
                            const std::vector<ExpertPlacement>& layers,
                            std::vector<std::unique_ptr<Collectives>> ranks) {
  std::vector<std::vector<Token>> dealt(static_cast<size_t>(shape.ranks));
  const size_t owners = shape.ranks == 1 ? 1 : static_cast<size_t>(shape.ranks - 1);
  for (size_t t = 0; t < tokens.size(); ++t) {
    dealt[shape.ranks == 1 ? 0 : 1 + t * owners / tokens.size()].push_back(tokens[t]);
  }
  std::vector<std::vector<float>> outputs(static_cast<size_t>(shape.ranks));
  RunRanks(ranks, [&](Collectives& c) {
    const auto me = static_cast<size_t>(c.rank());
    auto exchange = MakeExpertExchange(&c, {.tokens_max = static_cast<int64_t>(tokens.size()),
                                            .top_k = shape.top_k,
                                            .hidden = shape.hidden});
    for (const ExpertPlacement& placement : layers) {
      RunLayer(c, *exchange, placement, shape, dealt[me], &outputs[me]);
    }
    if (shape.ranks == 1) {
      EXPECT_EQ(exchange->stats().dispatch_bytes, 0u);
    }
  });
  std::vector<float> all;
  for (const auto& out : outputs) all.insert(all.end(), out.begin(), out.end());
  return all;
}

std::vector<float> RunGroup(const Shape& shape, const std::vector<Token>& tokens, size_t layers,
                            std::vector<std::unique_ptr<Collectives>> ranks) {
  const ExpertPlacement placement(shape.experts, shape.ranks);
  return RunGroup(shape, tokens, std::vector(layers, placement), std::move(ranks));
}

std::vector<float> RunGroup(const Shape& shape, const std::vector<Token>& tokens, size_t layers) {
  return RunGroup(shape, tokens, layers, MakeLocalCollectives(shape.ranks, 1, {}));
}

std::vector<float> Naive(const Shape& shape, const std::vector<Token>& tokens) {
  std::vector<float> y;
  for (const Token& token : tokens) {
    for (const int32_t e : token.experts) {
      for (int64_t i = 0; i < shape.hidden; ++i) {
        float x = token.x[static_cast<size_t>(i)];
        if (shape.payload == DType::kBF16) x = ToF32(ToBF16(x));
        y.push_back(ExpertOutput(e, x, i));
      }
    }
  }
  return y;
}

TEST(ExpertExchange, GivesTheBitsOfTheNaiveLayerOnAnyNumberOfRanks) {
  for (const DType payload : {DType::kF32, DType::kBF16}) {
    for (const int ranks : {1, 2, 3, 4, 5}) {
      for (const int32_t experts : {5, 8, 13}) {
        for (const int64_t top_k : {1, 3, 5}) {
          const Shape shape{ranks, experts, top_k, 7, payload};
          const auto tokens = MakeTokens(shape, 11, static_cast<uint64_t>(ranks * 100 + experts));
          EXPECT_EQ(RunGroup(shape, tokens, 2), Naive(shape, tokens))
              << ranks << " ranks, " << experts << " experts, top " << top_k;
        }
      }
    }
  }
}

TEST(ExpertExchange, GivesTheSameBitsWhereverTheRanksRun) {
  for (const DType payload : {DType::kF32, DType::kBF16}) {
    for (const int ranks : {1, 2, 3, 4}) {
      const Shape shape{ranks, 5, 3, 33, payload};
      const auto tokens = MakeTokens(shape, 11, static_cast<uint64_t>(ranks));
      for (const auto& hosts : {HostsNextToEachOther(ranks, 1), HostsNextToEachOther(ranks, 2),
                                HostsInTurn(ranks, 2)}) {
        EXPECT_EQ(RunGroup(shape, tokens, 2, MakeRanksOnHosts(hosts, 1, {.ring_bytes = 4096})),
                  Naive(shape, tokens))
            << fmt::format("{}", fmt::join(hosts, " "));
      }
      EXPECT_TRUE(RunGroup(shape, {}, 2, MakeRanksOnHosts(HostsInTurn(ranks, 2), 1, {})).empty());
    }
  }
}

// Each expert on one to all of the ranks.
ExpertPlacement RandomPlacement(const Shape& shape, std::mt19937_64* random) {
  std::vector<std::vector<int32_t>> experts_of(static_cast<size_t>(shape.ranks));
  for (int32_t e = 0; e < shape.experts; ++e) {
    const size_t always = (*random)() % experts_of.size();
    for (size_t r = 0; r < experts_of.size(); ++r) {
      if (r == always || (*random)() % 3 == 0) experts_of[r].push_back(e);
    }
  }
  return ExpertPlacement(shape.experts, std::move(experts_of));
}

TEST(ExpertExchange, GivesTheSameBitsWhereverExpertsAndTheirCopiesLie) {
  std::mt19937_64 random(7);
  for (const DType payload : {DType::kF32, DType::kBF16}) {
    for (const int ranks : {1, 2, 3, 4}) {
      const Shape shape{ranks, 9, 4, 5, payload};
      const auto tokens = MakeTokens(shape, 23, static_cast<uint64_t>(ranks));
      for (const auto& hosts : {HostsNextToEachOther(ranks, 1), HostsNextToEachOther(ranks, ranks),
                                HostsInTurn(ranks, 2)}) {
        std::vector<ExpertPlacement> layers;  // each layer has its own, the last one counts
        for (int i = 0; i < 4; ++i) layers.push_back(RandomPlacement(shape, &random));
        EXPECT_EQ(RunGroup(shape, tokens, layers, MakeRanksOnHosts(hosts, 1, {.ring_bytes = 4096})),
                  Naive(shape, tokens))
            << fmt::format("{}", fmt::join(hosts, " "));
      }
    }
  }
}

TEST(ExpertExchange, DealsTheRowsOfAnExpertToItsCopiesInTurn) {
  auto ranks = MakeLocalCollectives(3, 1, {});
  const ExpertPlacement placement(2, {{0, 1}, {0}, {0}});  // expert 0 is everywhere
  RunRanks(ranks, [&](Collectives& c) {
    auto exchange = MakeExpertExchange(&c, {.tokens_max = 4, .top_k = 1, .hidden = 1});
    const int64_t own = c.rank() == 0 ? 4 : c.rank() == 1 ? 1 : 0;
    const std::vector<float> x(4, 1.0f);
    const std::vector<int32_t> ids(4, 0);
    for (int layer = 0; layer < 2; ++layer) {  // a layer begins as the one before
      auto rows = exchange->Dispatch(placement, TensorView(x.data(), DType::kF32, {own, 1}),
                                     TensorView(ids.data(), DType::kI32, {own, 1}), DType::kF32);
      ASSERT_TRUE(rows.ok()) << rows.status();
      // Rank 0 begins with the first copy: 0 1 2 0. Rank 1 with the second.
      EXPECT_EQ(rows->offsets.back(), c.rank() == 2 ? 1 : 2) << c.rank();
      std::vector<float> out(static_cast<size_t>(rows->x.dim(0))), y(4);
      ASSERT_TRUE(exchange
                      ->Combine(TensorView(out.data(), DType::kF32, {rows->x.dim(0), 1}),
                                TensorView(y.data(), DType::kF32, {own, 1}))
                      .ok());
    }
  });
}

TEST(ExpertExchange, RanksThatMeanDifferentPlacementsAreFoundOut) {
  auto ranks = MakeLocalCollectives(2, 1, {});
  RunRanks(ranks, [&](Collectives& c) {
    const ExpertPlacement placement(2, c.rank() == 0
                                           ? std::vector<std::vector<int32_t>>{{0}, {1}}
                                           : std::vector<std::vector<int32_t>>{{0, 1}, {0}});
    auto exchange = MakeExpertExchange(&c, {.tokens_max = 1, .top_k = 1, .hidden = 1});
    const float x = 1;
    const int32_t id = 1;
    Status status;
    for (int layer = 0; layer < 2 && status.ok(); ++layer) {
      status = exchange
                   ->Dispatch(placement, TensorView(&x, DType::kF32, {1, 1}),
                              TensorView(&id, DType::kI32, {1, 1}), DType::kF32)
                   .status();
    }
    // Its own, or the other one's, who was faster.
    const int to = MessageOf(status).ends_with("rank 0, which holds 0") ? 0 : 1;
    EXPECT_EQ(MessageOf(status),
              fmt::format("dispatch: rank {} sent expert 1 row 0 of 1 to rank {}, which holds 0",
                          1 - to, to));
  });
}

TEST(ExpertExchange, WorksWithFewerExpertsThanRanks) {
  const Shape shape{5, 3, 2, 4, DType::kF32};
  const auto tokens = MakeTokens(shape, 9, 3);
  EXPECT_EQ(RunGroup(shape, tokens, 1), Naive(shape, tokens));
}

TEST(ExpertExchange, AStepWithoutAnyTokenIsFine) {
  const Shape shape{3, 8, 2, 4, DType::kBF16};
  EXPECT_TRUE(RunGroup(shape, {}, 3).empty());
}

TEST(ExpertExchange, OrdersRowsByExpertThenSourceThenToken) {
  // One expert per rank and all tokens to expert 0: its rows must come by source rank, then token.
  auto ranks = MakeLocalCollectives(3, 1, {});
  RunRanks(ranks, [&](Collectives& c) {
    auto exchange = MakeExpertExchange(&c, {.tokens_max = 2, .top_k = 1, .hidden = 1});
    const float x[2] = {static_cast<float>(c.rank() * 10), static_cast<float>(c.rank() * 10 + 1)};
    const int32_t ids[2] = {0, 0};
    auto rows = exchange->Dispatch(ExpertPlacement(3, 3), TensorView(x, DType::kF32, {2, 1}),
                                   TensorView(ids, DType::kI32, {2, 1}), DType::kF32);
    ASSERT_TRUE(rows.ok());
    if (c.rank() == 0) {
      ASSERT_EQ(rows->offsets, (std::vector<int32_t>{0, 6}));
      const std::vector<float> got(rows->x.f32(), rows->x.f32() + 6);
      EXPECT_EQ(got, (std::vector<float>{0, 1, 10, 11, 20, 21}));
    } else {
      EXPECT_EQ(rows->offsets, (std::vector<int32_t>{0, 0}));
    }
  });
}

TEST(ExpertExchange, SendsATokenOnceToARankThatOwnsSeveralOfItsExperts) {
  auto ranks = MakeLocalCollectives(2, 1, {});
  RunRanks(ranks, [&](Collectives& c) {
    auto exchange = MakeExpertExchange(&c, {.tokens_max = 1, .top_k = 4, .hidden = 100});
    const std::vector<float> x(100, 1.0f);
    const std::vector<int32_t> ids{4, 5, 6, 7};  // all on rank 1
    const int64_t own = c.rank() == 0 ? 1 : 0;
    auto rows =
        exchange->Dispatch(ExpertPlacement(8, 2), TensorView(x.data(), DType::kF32, {own, 100}),
                           TensorView(ids.data(), DType::kI32, {own, 4}), DType::kBF16);
    ASSERT_TRUE(rows.ok());
    EXPECT_EQ(rows->x.dim(0), c.rank() == 1 ? 4 : 0);
    EXPECT_EQ(exchange->stats().dispatch_bytes, c.rank() == 0 ? 4u * 8 + 200 : 0u);
  });
}

TEST(ExpertExchange, ADeadCommunicatorFailsEveryCallWithItsReason) {
  auto ranks = MakeLocalCollectives(2, 1, {});
  ranks[1]->Abort(Unavailable("rank 1 is gone"));
  auto exchange = MakeExpertExchange(ranks[0].get(), {.tokens_max = 1, .top_k = 1, .hidden = 2});
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(
        exchange
            ->Dispatch(ExpertPlacement(4, 2),
                       TensorView(static_cast<void*>(nullptr), DType::kF32, {0, 2}),
                       TensorView(static_cast<void*>(nullptr), DType::kI32, {0, 1}), DType::kF32)
            .status(),
        Unavailable("rank 1 is gone"));
  }
}

TEST(ExpertExchange, AFaultInAnyCollectiveEndsTheLayersOfEveryRankWithItsReason) {
  const Shape shape{3, 8, 2, 4, DType::kF32};
  const auto tokens = MakeTokens(shape, 3, 1);
  for (int64_t fail_at = 0; fail_at < 9; ++fail_at) {  // three layers of three collectives
    auto ranks = MakeLocalCollectives(3, 1, {});
    ranks[1] = std::make_unique<FaultyCollectives>(
        std::move(ranks[1]), Fault{.fail_at = fail_at, .after = fail_at % 2 == 1});
    RunRanks(ranks, [&](Collectives& c) {
      auto exchange = MakeExpertExchange(&c, {.tokens_max = 3, .top_k = 2, .hidden = 4});
      const ExpertPlacement placement(8, 3);
      const Token& token = tokens[static_cast<size_t>(c.rank())];
      Status status;
      for (int layer = 0; layer < 4 && status.ok(); ++layer) {
        const auto rows =
            exchange->Dispatch(placement, TensorView(token.x.data(), DType::kF32, {1, 4}),
                               TensorView(token.experts.data(), DType::kI32, {1, 2}), DType::kF32);
        status = rows.status();
        if (!status.ok()) break;
        std::vector<float> out(static_cast<size_t>(rows->x.dim(0)) * 4), y(8);
        status = exchange->Combine(TensorView(out.data(), DType::kF32, {rows->x.dim(0), 4}),
                                   TensorView(y.data(), DType::kF32, {2, 4}));
      }
      EXPECT_EQ(status, Unavailable("injected fault"))
          << "call " << fail_at << " rank " << c.rank();
    });
  }
}

}  // namespace
}  // namespace choir
