#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/contract/kernels/kernels_test.h"

namespace choir {
namespace {

class AttentionContract : public KernelsTest {
 protected:
  // Whether tensor cores do it, which round q and probabilities to bf16.
  bool Rounds(const Tensor& pool, std::initializer_list<int64_t> columns) const {
    const bool whole =
        std::all_of(columns.begin(), columns.end(), [](auto n) { return n % 8 == 0; });
    return OnTensorCores(GetParam()) && pool.view().dtype() == DType::kBF16 && whole;
  }
};

// Columns of a head; every other time as the fast paths want them.
int64_t Columns(Random& random, int64_t most) {
  return random.Coin() ? 8 * random.Int(1, most / 8) : random.Int(1, most);
}

Tensor RoundedToBF16(const Tensor& q) {
  const Tensor rounded = q.Clone();
  for (int64_t i = 0; i < q.view().num_elements(); ++i) {
    rounded.f32()[i] = ToF32(ToBF16(q.f32()[i]));
  }
  return rounded;
}

// Each probability is off by at most 2^-8 of itself where they are rounded, so a mean of values of
// at most 1 by their mean distance from it, of at most 1, times that.
constexpr double kRoundedShares = 1.01 / 256;

// Sequences whose blocks lie scattered in one pool, each with its last `count` tokens in the batch.
struct Sequences {
  std::vector<std::vector<int32_t>> tables;
  std::vector<AttentionSequence> batch;
  int64_t num_blocks = 0;
  int64_t rows = 0;
};

Sequences MakeSequences(Random& random, int64_t block_tokens) {
  Sequences s;
  const int64_t count = random.Int(1, 4);
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < count; ++i) {
    lengths.push_back(random.Int(1, 90));
    s.num_blocks += (lengths.back() + block_tokens - 1) / block_tokens;
  }
  std::vector<int32_t> ids(static_cast<size_t>(s.num_blocks));
  std::iota(ids.begin(), ids.end(), 0);
  for (size_t i = ids.size(); i > 1; --i) {
    std::swap(ids[i - 1], ids[static_cast<size_t>(random.Int(0, static_cast<int64_t>(i) - 1))]);
  }
  size_t next = 0;
  for (const int64_t length : lengths) {
    const auto blocks = static_cast<size_t>((length + block_tokens - 1) / block_tokens);
    s.tables.emplace_back(ids.begin() + static_cast<int64_t>(next),
                          ids.begin() + static_cast<int64_t>(next + blocks));
    next += blocks;
    const int64_t rows = random.Coin() ? 1 : random.Int(1, length);
    s.batch.push_back({static_cast<int32_t>(s.rows), static_cast<int32_t>(rows),
                       static_cast<int32_t>(length - rows), nullptr});
    s.rows += rows;
  }
  for (size_t i = 0; i < s.batch.size(); ++i) s.batch[i].block_table = s.tables[i].data();
  return s;
}

// The same rows, cut at random: what chunked prefill and other batches make of them.
std::vector<AttentionSequence> Cut(Random& random, const std::vector<AttentionSequence>& whole) {
  std::vector<AttentionSequence> parts;
  for (const AttentionSequence& s : whole) {
    for (int32_t done = 0; done < s.row_count;) {
      const auto count = static_cast<int32_t>(random.Int(1, s.row_count - done));
      parts.push_back({s.row_begin + done, count, s.first_position + done, s.block_table});
      done += count;
    }
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

// Scores: a dot of `width` terms of at most 1, scaled: error d. Probabilities: relative error 2d +
// exp's and the sum's; out: as many more for the weighted sum, of values of at most 1.
double AttentionBound(int64_t width, double scale, int64_t keys) {
  const double score = DotBound(width, static_cast<double>(width)) * scale;
  return 2 * score + (static_cast<double>(2 * keys) + 16) * kUnit;
}

struct Gqa {
  Sequences sequences;
  Tensor q, k, v, sinks;
  int64_t kv_heads = 0, group = 0, v_dim = 0, window = 0;

  PagedAttentionArgs Args(const Tensor& out) const {
    PagedAttentionArgs args{.q = q,
                            .k = {k},
                            .v = {v},
                            .out = out,
                            .sequences = sequences.batch,
                            .kv_heads = kv_heads,
                            .scale = 0.3f,
                            .window = window};
    if (sinks.view().rank() != 0) args.sinks = sinks;
    return args;
  }
  Tensor Out() const { return Tensor(DType::kF32, {sequences.rows, kv_heads * group, v_dim}); }
};

Gqa MakeGqa(Random& random) {
  Gqa c;
  const int64_t block_tokens = random.Coin() ? 16 : random.Int(1, 20);
  c.sequences = MakeSequences(random, block_tokens);
  c.kv_heads = random.Int(1, 3);
  c.group = random.Int(1, 5);
  const int64_t head_dim = random.Coin() ? 64 : Columns(random, 80);
  c.v_dim = random.Coin() ? head_dim : Columns(random, 80);
  const DType dtype = random.WeightType();
  c.q = random.Values(DType::kF32, {c.sequences.rows, c.kv_heads * c.group, head_dim});
  c.k = random.Values(dtype, {c.sequences.num_blocks, block_tokens, c.kv_heads * head_dim});
  c.v = random.Values(dtype, {c.sequences.num_blocks, block_tokens, c.kv_heads * c.v_dim});
  if (random.Coin()) c.window = random.Int(1, 40);
  if (random.Coin()) c.sinks = random.Values(DType::kF32, {c.kv_heads * c.group}, 5.0f);
  return c;
}

TEST_P(AttentionContract, PagedAgreesWithTheReference) {
  ForSeeds(40, [&](Random& random) {
    Gqa c = MakeGqa(random);
    const Tensor got = c.Out();
    const Tensor want = c.Out();
    kernels_->PagedAttention(c.Args(got), Any(random));
    const bool rounds = Rounds(c.k, {c.q.view().dim(2), c.v_dim});
    if (rounds) c.q = RoundedToBF16(c.q);
    oracle_->PagedAttention(c.Args(want), {});
    const double bound =
        AttentionBound(c.q.view().dim(2), 0.3, 90) + (rounds ? kRoundedShares : 0.0);
    for (int64_t i = 0; i < want.view().num_elements(); ++i) {
      ASSERT_NEAR(got.f32()[i], want.f32()[i], bound) << "element " << i;
    }
  });
}

TEST_P(AttentionContract, PagedHasTheSameBitsForEveryChunkingAndBatch) {
  ForSeeds(25, [&](Random& random) {
    const Gqa c = MakeGqa(random);
    const Tensor whole = c.Out();
    const Tensor cut = c.Out();
    kernels_->PagedAttention(c.Args(whole), Any(random));
    PagedAttentionArgs args = c.Args(cut);
    const std::vector<AttentionSequence> parts = Cut(random, c.sequences.batch);
    args.sequences = parts;
    kernels_->PagedAttention(args, Any(random));
    ExpectSameBits(cut.f32(), whole.f32(), cut.view().num_elements(), "cut");
    std::fill_n(cut.f32(), cut.view().num_elements(), 0.0f);
    for (const AttentionSequence& part : parts) {  // each part in a call of its own
      args.sequences = {&part, 1};
      kernels_->PagedAttention(args, Any(random));
    }
    ExpectSameBits(cut.f32(), whole.f32(), cut.view().num_elements(), "alone");
  });
}

// With equal scores the result is the mean of the values seen.
TEST_P(AttentionContract, AWindowHoldsTheTokenItselfAndThoseJustBefore) {
  constexpr int64_t kLength = 40;
  const Tensor q(DType::kF32, {kLength, 1, 2}), k(DType::kF32, {5, 8, 2});
  const Tensor v(DType::kF32, {5, 8, 1}), out(DType::kF32, {kLength, 1, 1});
  std::iota(v.f32(), v.f32() + kLength, 0.0f);
  const std::vector<int32_t> table = {0, 1, 2, 3, 4};
  const AttentionSequence sequence{0, kLength, 0, table.data()};
  PagedAttentionArgs args{
      .q = q, .k = {k}, .v = {v}, .out = out, .sequences = {&sequence, 1}, .kv_heads = 1};
  for (const int64_t window :
       {int64_t{1}, int64_t{2}, int64_t{7}, int64_t{16}, kLength, int64_t{0}}) {
    args.window = window;
    kernels_->PagedAttention(args, StreamOf(3));
    for (int64_t i = 0; i < kLength; ++i) {
      const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, i - window + 1);
      ASSERT_NEAR(out.f32()[i], static_cast<double>(first + i) / 2, 1e-4) << window << " " << i;
    }
  }
}

TEST_P(AttentionContract, PagedReadsOnlyTheKeysItsTokenSees) {
  ForSeeds(10, [&](Random& random) {
    const Gqa c = MakeGqa(random);
    const Tensor clean = c.Out();
    kernels_->PagedAttention(c.Args(clean), Any(random));
    // The first token of each sequence's rows, computed while all positions behind it, and those
    // before its window, hold NaN.
    const int64_t row = c.kv_heads * c.group * c.v_dim;
    for (const AttentionSequence& s : c.sequences.batch) {
      Gqa poisoned = c;
      poisoned.k = c.k.Clone();
      poisoned.v = c.v.Clone();
      const int64_t tokens = c.k.view().dim(1);
      const auto blocks = (s.first_position + s.row_count + tokens - 1) / tokens;
      for (Tensor* pool : {&poisoned.k, &poisoned.v}) {
        const int64_t width = pool->view().dim(2);
        const int64_t bytes = width * static_cast<int64_t>(SizeOf(pool->view().dtype()));
        for (int64_t j = 0; j < blocks * tokens; ++j) {
          const int64_t back = s.first_position - j;
          if (back >= 0 && (c.window == 0 || back < c.window)) continue;
          const int64_t at = s.block_table[j / tokens] * tokens + j % tokens;
          std::memset(static_cast<char*>(pool->view().raw()) + at * bytes, 0xff,
                      static_cast<size_t>(bytes));
        }
      }
      const AttentionSequence first{s.row_begin, 1, s.first_position, s.block_table};
      const Tensor out = c.Out();
      PagedAttentionArgs args = poisoned.Args(out);
      args.sequences = {&first, 1};
      kernels_->PagedAttention(args, Any(random));
      ExpectSameBits(out.f32() + s.row_begin * row, clean.f32() + s.row_begin * row, row, "token");
    }
  });
}

TEST_P(AttentionContract, SurvivesScoresThatWouldOverflowExp) {
  Random random(1);
  const Tensor q = random.Values(DType::kF32, {1, 1, 16}, 100.0f);
  const Tensor k = random.Values(DType::kF32, {2, 16, 16}, 100.0f);
  const Tensor v = random.Values(DType::kF32, {2, 16, 16});
  const Tensor got(DType::kF32, {1, 1, 16});
  const Tensor want(DType::kF32, {1, 1, 16});
  const std::vector<int32_t> table = {1, 0};
  const AttentionSequence sequence{0, 1, 30, table.data()};
  PagedAttentionArgs args{
      .q = q, .k = {k}, .v = {v}, .out = got, .sequences = {&sequence, 1}, .kv_heads = 1};
  kernels_->PagedAttention(args, StreamOf(1));
  args.out = want;
  oracle_->PagedAttention(args, {});
  for (int64_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(got.f32()[i], want.f32()[i], 2 * DotBound(16, 16 * 1e4) + 1e-5);
  }
}

struct Mla {
  Sequences sequences;
  Tensor q_latent, q_rope, latent;

  MlaAttentionArgs Args(const Tensor& out) const {
    return {.q_latent = q_latent,
            .q_rope = q_rope,
            .latent = {latent},
            .out = out,
            .sequences = sequences.batch,
            .scale = 0.2f};
  }
  Tensor Out() const {
    return Tensor(DType::kF32, {sequences.rows, q_latent.view().dim(1), q_latent.view().dim(2)});
  }
};

Mla MakeMla(Random& random) {
  Mla c;
  const int64_t block_tokens = random.Coin() ? 16 : random.Int(1, 20);
  c.sequences = MakeSequences(random, block_tokens);
  const int64_t heads = random.Int(1, 16);
  const int64_t lora = Columns(random, 96);
  const int64_t rope = Columns(random, 24);
  c.q_latent = random.Values(DType::kF32, {c.sequences.rows, heads, lora});
  c.q_rope = random.Values(DType::kF32, {c.sequences.rows, heads, rope});
  c.latent =
      random.Values(random.WeightType(), {c.sequences.num_blocks, block_tokens, lora + rope});
  return c;
}

TEST_P(AttentionContract, MlaAgreesWithTheReference) {
  ForSeeds(25, [&](Random& random) {
    Mla c = MakeMla(random);
    const Tensor got = c.Out();
    const Tensor want = c.Out();
    kernels_->MlaAttention(c.Args(got), Any(random));
    const bool rounds = Rounds(c.latent, {c.q_latent.view().dim(2), c.q_rope.view().dim(2)});
    if (rounds) c.q_latent = RoundedToBF16(c.q_latent);
    if (rounds) c.q_rope = RoundedToBF16(c.q_rope);
    oracle_->MlaAttention(c.Args(want), {});
    const double bound =
        AttentionBound(c.latent.view().dim(2), 0.2, 90) + (rounds ? kRoundedShares : 0.0);
    for (int64_t i = 0; i < want.view().num_elements(); ++i) {
      ASSERT_NEAR(got.f32()[i], want.f32()[i], bound) << "element " << i;
    }
  });
}

TEST_P(AttentionContract, MlaHasTheSameBitsForEveryChunkingAndBatch) {
  ForSeeds(15, [&](Random& random) {
    const Mla c = MakeMla(random);
    const Tensor whole = c.Out();
    const Tensor cut = c.Out();
    kernels_->MlaAttention(c.Args(whole), Any(random));
    MlaAttentionArgs args = c.Args(cut);
    const std::vector<AttentionSequence> parts = Cut(random, c.sequences.batch);
    args.sequences = parts;
    kernels_->MlaAttention(args, Any(random));
    ExpectSameBits(cut.f32(), whole.f32(), cut.view().num_elements(), "cut");
  });
}

TEST_P(AttentionContract, FitsItsWorkspaceAtTheLongestSequence) {
  Random random(5);
  const int64_t length = kLimits.positions_max;
  const int64_t heads = 16;
  const Tensor q = random.Values(DType::kF32, {40, heads, 32});
  const Tensor k = random.Values(DType::kBF16, {length / 16, 16, 4 * 32});
  const Tensor v = random.Values(DType::kBF16, {length / 16, 16, 4 * 32});
  std::vector<int32_t> table(static_cast<size_t>(length / 16));
  std::iota(table.begin(), table.end(), 0);
  const AttentionSequence sequence{0, 40, static_cast<int32_t>(length - 40), table.data()};
  const Tensor got(DType::kF32, {40, heads, 32});
  const Tensor want(DType::kF32, {40, heads, 32});
  PagedAttentionArgs args{
      .q = q, .k = {k}, .v = {v}, .out = got, .sequences = {&sequence, 1}, .kv_heads = 4};
  kernels_->PagedAttention(args, StreamOf(5));
  args.out = want;
  const bool rounds = Rounds(k, {32});
  const Tensor seen = rounds ? RoundedToBF16(q) : q;
  args.q = seen;
  oracle_->PagedAttention(args, {});
  const double bound = AttentionBound(32, 1.0, length) + (rounds ? kRoundedShares : 0.0);
  for (int64_t i = 0; i < want.view().num_elements(); ++i) {
    ASSERT_NEAR(got.f32()[i], want.f32()[i], bound) << "element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, AttentionContract, testing::ValuesIn(ProductKernelSets()),
                         NameOfParam);

// Sequences of 4 keys with 2 rows, and of 10 with one; in f32 pools of 4 blocks of 8 keys.
struct SmallBatch {
  const std::vector<int32_t> table = {0, 1};
  const std::vector<AttentionSequence> batch = {{0, 2, 2, table.data()}, {2, 1, 9, table.data()}};
  const Tensor pool{DType::kF32, {4, 8, 6}};
  const Tensor rows{DType::kF32, {3, 2, 3}};
};

TEST(AttentionArgs, SayWhatTheyMoveAndMultiply) {
  const SmallBatch b;
  PagedAttentionArgs gqa{.q = b.rows,
                         .k = {b.pool},
                         .v = {b.pool},
                         .out = b.rows,
                         .sequences = b.batch,
                         .kv_heads = 2};
  const int64_t rows = 3 * 2 * 3 * 4, key = 6 * 4;
  EXPECT_EQ(gqa.Bytes(), (4 + 10) * 2 * key + 2 * rows);
  EXPECT_EQ(gqa.Flops(), 2 * (3 + 4 + 10) * 2 * (3 + 3));
  gqa.window = 3;
  EXPECT_EQ(gqa.Bytes(), (4 + 3) * 2 * key + 2 * rows);
  EXPECT_EQ(gqa.Flops(), 2 * (3 + 3 + 3) * 2 * (3 + 3));
  const MlaAttentionArgs mla{.q_latent = b.rows,
                             .q_rope = b.rows,
                             .latent = {b.pool},
                             .out = b.rows,
                             .sequences = b.batch};
  EXPECT_EQ(mla.Bytes(), (4 + 10) * key + 3 * rows);
  EXPECT_EQ(mla.Flops(), 2 * (3 + 4 + 10) * 2 * (6 + 3));
}

TEST(AttentionArgs, SayTheMostWhereOnlyTheDeviceKnowsTheSequences) {
  const SmallBatch b;
  const Staged<AttentionSequence> there(nullptr, 3, b.batch.data());
  MlaAttentionArgs mla{.q_latent = b.rows,
                       .q_rope = b.rows,
                       .latent = {b.pool},
                       .out = b.rows,
                       .sequences = there,
                       .keys_max = 20};
  const int64_t rows = 3 * 2 * 3 * 4, key = 6 * 4;
  EXPECT_EQ(mla.Bytes(), 3 * 20 * key + 3 * rows);
  EXPECT_EQ(mla.Flops(), 2 * 3 * 20 * 2 * (6 + 3));
  mla.keys_max = 0;
  EXPECT_EQ(mla.Flops(), 2 * 3 * (4 * 8) * 2 * (6 + 3)) << "no more than the pool has";
  const PagedAttentionArgs gqa{.q = b.rows,
                               .k = {b.pool},
                               .v = {b.pool},
                               .out = b.rows,
                               .sequences = there,
                               .keys_max = 20,
                               .kv_heads = 2,
                               .window = 5};
  EXPECT_EQ(gqa.Bytes(), 3 * 5 * 2 * key + 2 * rows);
  mla.sequences = {};
  EXPECT_EQ(mla.Flops(), 0) << "all rows are padding";
}

}  // namespace
}  // namespace choir
