// Attention on tensor cores cuts its work by what the card, the batch and the workspace offer: here
// every cut gives the same bits. On long sequences, as those are what is cut.
#include <algorithm>
#include <numeric>

#include "kernels/cuda/tensor/attend_plan.cuh"
#include "tests/contract/kernels/kernels_test.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"

namespace choir {
namespace {

using cuda::AttendBounds;
using cuda::AttendPlan;
using cuda::AttendProblem;
using cuda::CardLimits;
using emulation::Order;

constexpr CardLimits kH200{.multiprocessors = 132, .shared_bytes = 227 * 1024};
constexpr int64_t kBlockTokens = 16;

// Where a call runs. Workspace: one that holds parts only in several launches, or none at all,
// makes other plans.
struct Place {
  const char* name;
  int multiprocessors;
  size_t workspace;
  Order order = Order::kForward;
};

// `few`: multiprocessors that tiles of 64 queries are fewer than, but not their parts.
// `some`: a workspace for parts of two chunks, not of three.
std::vector<Place> PlacesOf(int few, size_t some) {
  return {
      {"blocks that fold their own, 64 queries each", 1, 1 << 20},
      {"a part a block, 64 queries each", few, 1 << 20},
      {"a part a block, 16 queries each", 1000, 1 << 20},
      {"as many parts as fit, threads backward", 1000, some, Order::kBackward},
      {"no room for parts, threads shuffled", 1000, 8 << 10, Order::kShuffled},
  };
}

class AttentionPlans : public testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { emulation::SetEmulatedCard(emulation::kEmulatedCard); }

  cuda::KernelStream At(const Place& place) {
    emulation::SetEmulatedCard({place.multiprocessors, kH200.shared_bytes});
    return {.native = emulation::StreamInOrder(place.order),
            .workspace = {memory_.get(), place.workspace}};
  }

  // With their block tables; kept until the test ends.
  const AttentionSequence* InTestMemory(std::vector<AttentionSequence> sequences) {
    for (AttentionSequence& s : sequences) {
      const size_t blocks = s.block_table == nullptr ? 0 : s.first_position / kBlockTokens + 1;
      s.block_table = Keep(std::vector<int32_t>(s.block_table, s.block_table + blocks));
    }
    return Keep(sequences);
  }

  const cuda::KernelTable& gpu_ = GpuTable(GetParam());
  const std::unique_ptr<KernelSet> oracle_ = MakeReferenceKernels();
  const std::shared_ptr<std::byte> memory_ = TestBytes(size_t{1} << 20);

 private:
  template <class T>
  const T* Keep(const std::vector<T>& values) {
    const std::shared_ptr<const T> copy = CopyForDevice(values);
    kept_.push_back(copy);
    return copy.get();
  }
  std::vector<std::shared_ptr<const void>> kept_;
};

// Sequences in one pool, their blocks in turns.
struct Batch {
  std::vector<std::vector<int32_t>> tables;
  std::vector<AttentionSequence> sequences;
  int64_t rows = 0;
  int64_t blocks = 0;

  // {rows, position of the last}
  explicit Batch(std::initializer_list<std::pair<int32_t, int32_t>> all) : tables(all.size()) {
    size_t i = 0;
    for (const auto& [count, last] : all) {
      for (int64_t b = 0; b <= last / kBlockTokens; ++b) {
        tables[i].push_back(
            static_cast<int32_t>(b * static_cast<int64_t>(all.size()) + static_cast<int64_t>(i)));
        blocks = std::max<int64_t>(blocks, tables[i].back() + 1);
      }
      sequences.push_back({static_cast<int32_t>(rows), count, last - count + 1, tables[i].data()});
      rows += count;
      ++i;
    }
  }
  std::vector<AttentionSequence> RowByRow() const {
    std::vector<AttentionSequence> all;
    for (const AttentionSequence& s : sequences) {
      for (int32_t i = 0; i < s.row_count; ++i) {
        all.push_back({s.row_begin + i, 1, s.first_position + i, s.block_table});
      }
    }
    return all;
  }
};

Tensor OfBF16(Random& random, std::initializer_list<int64_t> shape) {
  const Tensor t = random.Values(DType::kF32, shape);
  for (int64_t i = 0; i < t.view().num_elements(); ++i) t.f32()[i] = ToF32(ToBF16(t.f32()[i]));
  return t;
}

// `q` of bf16 values; values of at most 1.
void ExpectNear(const Tensor& got, const Tensor& want, double scale, int64_t width) {
  const double bound = 1.01 / 256 + 2 * DotBound(width, static_cast<double>(width)) * scale + 1e-3;
  for (int64_t i = 0; i < want.view().num_elements(); ++i) {
    ASSERT_NEAR(got.f32()[i], want.f32()[i], bound) << "element " << i;
  }
}

// Rows on both sides of an end of a chunk, the first and the last keys of one, a single key.
TEST_P(AttentionPlans, PagedGivesTheSameBitsByEveryPlan) {
  Random random(1);
  const Batch batch({{40, 1050}, {1, 1535}, {1, 512}, {3, 2}, {1, 0}});
  const Tensor q = OfBF16(random, {batch.rows, 6, 24});
  const Tensor k = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 2 * 24});
  const Tensor v = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 2 * 16});
  const Tensor sinks = random.Values(DType::kF32, {6}, 3.0f);
  const std::vector<Place> places = PlacesOf(40, 80 << 10);
  for (const int64_t window : {0, 600}) {
    const Tensor want(DType::kF32, {batch.rows, 6, 16});
    PagedAttentionArgs args{.q = q,
                            .k = {k},
                            .v = {v},
                            .out = want,
                            .sequences = batch.sequences,
                            .kv_heads = 2,
                            .scale = 0.5f,
                            .window = window};
    if (window > 0) args.sinks = sinks;
    oracle_->PagedAttention(args, {});
    const Tensor first(DType::kF32, {batch.rows, 6, 16});
    for (const Place& place : places) {
      const Tensor got(DType::kF32, {batch.rows, 6, 16});
      args.out = &place == places.data() ? first : got;
      gpu_.paged_attention(args, At(place));
      if (&place == places.data()) ExpectNear(first, want, 0.5, 24);
      if (&place != places.data()) {
        ExpectSameBits(got.f32(), first.f32(), got.view().num_elements(), place.name);
      }
    }
    const std::vector<AttentionSequence> rows = batch.RowByRow();
    const Tensor cut(DType::kF32, {batch.rows, 6, 16});
    args.out = cut;
    args.sequences = rows;
    gpu_.paged_attention(args, At({"16 queries", 1000, 1 << 20}));
    ExpectSameBits(cut.f32(), first.f32(), cut.view().num_elements(), "row by row");
  }
}

// What becomes a graph: only the device has the sequences, the grid follows a bound of their keys,
// and some only pad.
TEST_P(AttentionPlans, ADecodeStepOfTheDeviceHasTheBitsOfTheHosts) {
  Random random(5);
  const Batch batch({{1, 1100}, {1, 511}, {1, 7}});
  constexpr int64_t kRows = 5;
  const Tensor q = OfBF16(random, {kRows, 4, 16});
  const Tensor k = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 16});
  const Tensor v = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 16});
  std::vector<AttentionSequence> padded = batch.sequences;
  padded.resize(kRows, {.row_begin = kRows, .block_table = nullptr});
  for (const int64_t window : {0, 530}) {
    const Tensor want(DType::kF32, {kRows, 4, 16});
    PagedAttentionArgs args{.q = q,
                            .k = {k},
                            .v = {v},
                            .out = want,
                            .sequences = batch.sequences,
                            .kv_heads = 1,
                            .scale = 0.5f,
                            .window = window};
    gpu_.paged_attention(args, At({"", 1, 1 << 20}));
    args.sequences = {nullptr, padded.size(), InTestMemory(padded)};
    args.keys_max = 4096;
    for (const size_t workspace : {size_t{1} << 20, size_t{60} << 10, size_t{1} << 10}) {
      const Tensor got(DType::kF32, {kRows, 4, 16});
      args.out = got;
      gpu_.paged_attention(args, At({"", 1000, workspace, Order::kBackward}));
      ExpectSameBits(got.f32(), want.f32(), got.view().num_elements(), "device");
    }
  }
}

// 20 heads: no multiple of a tile's queries.
TEST_P(AttentionPlans, MlaGivesTheSameBitsByEveryPlan) {
  Random random(2);
  const Batch batch({{1, 2100}, {4, 1025}, {1, 1023}});
  const Tensor q_latent = OfBF16(random, {batch.rows, 20, 16});
  const Tensor q_rope = OfBF16(random, {batch.rows, 20, 8});
  const Tensor latent = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 24});
  const Tensor want(DType::kF32, {batch.rows, 20, 16}), first = want.Clone();
  MlaAttentionArgs args{.q_latent = q_latent,
                        .q_rope = q_rope,
                        .latent = {latent},
                        .out = want,
                        .sequences = batch.sequences,
                        .scale = 0.5f};
  oracle_->MlaAttention(args, {});
  const std::vector<Place> places = PlacesOf(15, 50 << 10);
  for (const Place& place : places) {
    const Tensor got(DType::kF32, {batch.rows, 20, 16});
    args.out = &place == places.data() ? first : got;
    gpu_.mla_attention(args, At(place));
    if (&place == places.data()) ExpectNear(first, want, 0.5, 24);
    if (&place != places.data()) {
      ExpectSameBits(got.f32(), first.f32(), got.view().num_elements(), place.name);
    }
  }
}

// The widest forms that there are, by one tile of 16 and of 64 queries.
TEST_P(AttentionPlans, MlaOfWholeWidthAgreesWithTheReference) {
  Random random(3);
  const Batch batch({{1, 70}, {2, 20}});
  const Tensor q_latent = OfBF16(random, {batch.rows, 24, 512});
  const Tensor q_rope = OfBF16(random, {batch.rows, 24, 64});
  const Tensor latent = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 576});
  const Tensor want(DType::kF32, {batch.rows, 24, 512}), got = want.Clone(), other = want.Clone();
  MlaAttentionArgs args{.q_latent = q_latent,
                        .q_rope = q_rope,
                        .latent = {latent},
                        .out = want,
                        .sequences = batch.sequences,
                        .scale = 0.07f};
  oracle_->MlaAttention(args, {});
  args.out = got;
  gpu_.mla_attention(args, At({"64 queries", 1, 1 << 20}));
  ExpectNear(got, want, 0.07, 576);
  args.out = other;
  gpu_.mla_attention(args, At({"16 queries", 1000, 1 << 20, Order::kBackward}));
  ExpectSameBits(other.f32(), got.f32(), got.view().num_elements(), "16 queries");
}

TEST_P(AttentionPlans, PagedOfHeadsOf256AgreesWithTheReference) {
  Random random(4);
  const Batch batch({{5, 100}, {1, 40}});
  const Tensor q = OfBF16(random, {batch.rows, 8, 256});
  const Tensor k = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 2 * 256});
  const Tensor v = random.Values(DType::kBF16, {batch.blocks, kBlockTokens, 2 * 256});
  const Tensor want(DType::kF32, {batch.rows, 8, 256}), got = want.Clone();
  PagedAttentionArgs args{.q = q,
                          .k = {k},
                          .v = {v},
                          .out = want,
                          .sequences = batch.sequences,
                          .kv_heads = 2,
                          .scale = 0.0625f,
                          .window = 33};
  oracle_->PagedAttention(args, {});
  args.out = got;
  gpu_.paged_attention(args, At({"64 queries", 1, 1 << 20}));
  ExpectNear(got, want, 0.0625, 256);
}

INSTANTIATE_TEST_SUITE_P(Tables, AttentionPlans, testing::ValuesIn(TensorTableNames()),
                         NameOfParam);

AttendProblem MlaOf128Heads(int64_t sequences) {
  AttendProblem a{};
  a.heads = a.group = 128;
  a.kv_heads = 1;
  a.k.columns = 576;
  a.v_columns = 512;
  a.rows = static_cast<int32_t>(sequences);
  a.batch.num_sequences = sequences;
  return a;
}

AttendPlan PlanFor(int64_t sequences, int64_t chunks, const CardLimits& card) {
  AttendProblem a = MlaOf128Heads(sequences);
  return cuda::PlanOf(&a, {.rows = 1, .chunks = chunks}, card, size_t{36} << 20);
}

TEST(AttentionPlan, ReadsKeysOnceFor64HeadsWhereThatFillsTheCard) {
  const AttendPlan plan = PlanFor(64, 4, kH200);
  EXPECT_EQ(plan.row_tiles, 4);
  EXPECT_EQ(plan.sizes.stages, 2);
  EXPECT_LE(cuda::SharedBytes(plan.sizes), kH200.shared_bytes);
}

TEST(AttentionPlan, SpreadsFewSequencesOverTheCard) {
  const AttendPlan plan = PlanFor(1, 4, kH200);
  EXPECT_EQ(plan.row_tiles, 1);
  EXPECT_EQ(plan.parts_at_once, 4);
}

// Of 228 KB, where each block has 1 KB taken.
TEST(AttentionPlan, TwoBlocksShareWhatTheReservesLeave) {
  EXPECT_EQ(cuda::SharedOfTwo(kH200.shared_bytes), 115'712);
}

TEST(AttentionPlan, DoesWithTheMemoryThatEveryCardHas) {
  const CardLimits small{.multiprocessors = 84, .shared_bytes = 99 * 1024};
  const AttendPlan plan = PlanFor(64, 4, small);
  EXPECT_EQ(plan.row_tiles, 1);
  EXPECT_LE(cuda::SharedBytes(plan.sizes), small.shared_bytes);
}

}  // namespace
}  // namespace choir
