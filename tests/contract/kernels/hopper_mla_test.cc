// mla_attention of the Hopper rung: the shapes that its own kernel takes, over pages of several
// sizes, across ends of tiles and chunks, by every plan. What it leaves to the rung below is in the
// suites of that one.
#include <algorithm>
#include <numeric>

#include "tests/contract/kernels/gpu_ops_test.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"

namespace choir {
namespace {

using emulation::Order;

constexpr int64_t kLora = 512, kRope = 64, kWidth = kLora + kRope;
constexpr int64_t kShared = 227 * 1024;

// Sequences whose pages lie scattered in one pool, and their queries of bf16 values.
struct MlaBatch {
  int64_t heads, block_tokens, rows = 0;
  std::vector<std::vector<int32_t>> tables;
  std::vector<AttentionSequence> sequences;
  Tensor q_latent, q_rope, latent;

  // {rows, position of the last}
  MlaBatch(Random& random, int64_t heads_of, int64_t tokens,
           std::initializer_list<std::pair<int32_t, int32_t>> all)
      : heads(heads_of), block_tokens(tokens), tables(all.size()) {
    int64_t blocks = 0;
    for (const auto& [count, last] : all) blocks += last / tokens + 1;
    auto next = static_cast<int32_t>(blocks);
    for (size_t i = 0; i < all.size(); ++i) {
      const auto [count, last] = all.begin()[i];
      for (int64_t b = 0; b <= last / tokens; ++b) tables[i].push_back(--next);
      sequences.push_back({static_cast<int32_t>(rows), count, last - count + 1, tables[i].data()});
      rows += count;
    }
    q_latent = OfBF16(random, {rows, heads, kLora});
    q_rope = OfBF16(random, {rows, heads, kRope});
    latent = random.Values(DType::kBF16, {blocks, tokens, kWidth});
  }

  static Tensor OfBF16(Random& random, std::initializer_list<int64_t> shape) {
    const Tensor t = random.Values(DType::kF32, shape);
    for (int64_t i = 0; i < t.view().num_elements(); ++i) t.f32()[i] = ToF32(ToBF16(t.f32()[i]));
    return t;
  }
  Tensor Out() const { return Tensor(DType::kF32, {rows, heads, kLora}); }
  MlaAttentionArgs Args(const Tensor& out) const {
    return {.q_latent = q_latent,
            .q_rope = q_rope,
            .latent = {latent},
            .out = out,
            .sequences = sequences,
            .scale = 0.07f};
  }
};

class HopperMla : public testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { emulation::SetEmulatedCard(emulation::kEmulatedCard); }

  // A card of so many multiprocessors: one folds chunks in place, many get a part each.
  cuda::KernelStream On(int multiprocessors, size_t workspace = size_t{1} << 20,
                        Order order = Order::kForward) {
    emulation::SetEmulatedCard({multiprocessors, kShared});
    return {.native = emulation::StreamInOrder(order), .workspace = {memory_.get(), workspace}};
  }

  // q and shares are rounded once: attention_test.cc.
  void ExpectNearReference(const MlaBatch& batch, const Tensor& got) {
    const Tensor want = batch.Out();
    oracle_->MlaAttention(batch.Args(want), {});
    const double bound =
        1.01 / 256 + 2 * DotBound(kWidth, static_cast<double>(kWidth)) * 0.07 + 1e-3;
    for (int64_t i = 0; i < want.view().num_elements(); ++i) {
      ASSERT_NEAR(got.f32()[i], want.f32()[i], bound) << "element " << i;
    }
  }

  const cuda::KernelTable& gpu_ = GpuTable(GetParam());
  const std::unique_ptr<KernelSet> oracle_ = MakeReferenceKernels();
  const std::shared_ptr<std::byte> memory_ = TestBytes(size_t{1} << 20);
};

// One key, whole tiles, tiles of one key; pages that divide a tile, hold several, or neither.
TEST_P(HopperMla, AgreesWithTheReferenceForPagesOfAnySize) {
  for (const int64_t tokens : {7, 16, 32, 64, 96}) {
    SCOPED_TRACE(tokens);
    Random random(static_cast<uint32_t>(tokens));
    const MlaBatch batch(random, 64, tokens, {{1, 0}, {1, 63}, {1, 64}, {1, 200}});
    const Tensor got = batch.Out();
    gpu_.mla_attention(batch.Args(got), On(1));
    ExpectNearReference(batch, got);
  }
}

TEST_P(HopperMla, TakesSeveralGroupsOfHeadsAndRowsOfASequence) {
  Random random(1);
  const MlaBatch batch(random, 128, 16, {{3, 65}, {1, 20}});
  const Tensor got = batch.Out();
  gpu_.mla_attention(batch.Args(got), On(1));
  ExpectNearReference(batch, got);
}

// Both sides of a chunk's end, and three chunks; as parts all at once, a few, or none.
TEST_P(HopperMla, GivesTheSameBitsByEveryPlan) {
  Random random(2);
  const MlaBatch batch(random, 64, 16, {{1, 2050}, {2, 1024}});
  const Tensor first = batch.Out();
  gpu_.mla_attention(batch.Args(first), On(1));
  ExpectNearReference(batch, first);
  struct Place {
    const char* name;
    size_t workspace;
    Order order;
  };
  const size_t part = size_t{64} * (kLora + 2) * sizeof(float);
  const Place places[] = {{"all parts at once", size_t{15} * part, Order::kForward},
                          {"two parts at once", size_t{11} * part, Order::kBackward},
                          {"no room for parts", 16 << 10, Order::kForward}};
  const std::shared_ptr<std::byte> room = TestBytes(20 * part);
  for (const Place& place : places) {
    cuda::KernelStream stream = On(1000, 0, place.order);
    stream.workspace = {room.get(), place.workspace};
    const Tensor got = batch.Out();
    gpu_.mla_attention(batch.Args(got), stream);
    ExpectSameBits(got.f32(), first.f32(), got.view().num_elements(), place.name);
  }
}

TEST_P(HopperMla, TheOrderOfThreadsAndCopiesChangesNoBit) {
  Random random(3);
  const MlaBatch batch(random, 64, 16, {{1, 300}});
  const Tensor first = batch.Out();
  gpu_.mla_attention(batch.Args(first), On(1));
  for (const Order order : {Order::kBackward, Order::kShuffled, Order::kShuffled}) {
    const Tensor got = batch.Out();
    gpu_.mla_attention(batch.Args(got), On(1, size_t{1} << 20, order));
    ExpectSameBits(got.f32(), first.f32(), got.view().num_elements(), "order");
  }
}

TEST_P(HopperMla, ARowHasTheSameBitsAlone) {
  Random random(4);
  const MlaBatch batch(random, 64, 16, {{2, 64}, {1, 150}});
  const Tensor whole = batch.Out();
  gpu_.mla_attention(batch.Args(whole), On(1));
  const int64_t row = batch.heads * kLora;
  for (const AttentionSequence& s : batch.sequences) {
    for (int32_t i = 0; i < s.row_count; ++i) {
      const AttentionSequence one{s.row_begin + i, 1, s.first_position + i, s.block_table};
      const Tensor alone = batch.Out();
      MlaAttentionArgs args = batch.Args(alone);
      args.sequences = {&one, 1};
      gpu_.mla_attention(args, On(1000));
      const int64_t at = one.row_begin * row;
      ExpectSameBits(alone.f32() + at, whole.f32() + at, row, "alone");
    }
  }
}

// What becomes a graph: the grid follows a bound of the keys, and some sequences only pad.
TEST_P(HopperMla, AStepOfTheDeviceHasTheBitsOfTheHosts) {
  Random random(5);
  const MlaBatch batch(random, 64, 16, {{1, 1040}, {1, 7}});
  const Tensor want = batch.Out();
  gpu_.mla_attention(batch.Args(want), On(1));
  std::vector<AttentionSequence> padded = batch.sequences;
  std::vector<std::shared_ptr<const int32_t>> tables;
  for (size_t i = 0; i < padded.size(); ++i) {
    tables.push_back(CopyForDevice(batch.tables[i]));
    padded[i].block_table = tables.back().get();
  }
  padded.resize(3, {.row_begin = static_cast<int32_t>(batch.rows), .block_table = nullptr});
  const std::shared_ptr<const AttentionSequence> device = CopyForDevice(padded);
  for (const int multiprocessors : {1, 1000}) {
    const Tensor got = batch.Out();
    MlaAttentionArgs args = batch.Args(got);
    args.sequences = {nullptr, padded.size(), device.get()};
    args.keys_max = 4096;
    const std::shared_ptr<std::byte> room = TestBytes(size_t{4} << 20);
    cuda::KernelStream stream = On(multiprocessors);
    stream.workspace = {room.get(), size_t{4} << 20};
    gpu_.mla_attention(args, stream);
    ExpectSameBits(got.f32(), want.f32(), got.view().num_elements(), "device");
  }
}

// Behind the last key its page may hold anything.
TEST_P(HopperMla, ReadsOnlyTheKeysItsRowSees) {
  Random random(6);
  const MlaBatch batch(random, 64, 32, {{1, 70}});
  const Tensor clean = batch.Out();
  gpu_.mla_attention(batch.Args(clean), On(1));
  const int64_t last_page = batch.tables[0].back();
  bf16* behind = batch.latent.view().b16() + (last_page * 32 + 71 % 32) * kWidth;
  std::fill_n(behind, (32 - 71 % 32) * kWidth, bf16{0x7fc0});
  const Tensor got = batch.Out();
  gpu_.mla_attention(batch.Args(got), On(1));
  ExpectSameBits(got.f32(), clean.f32(), got.view().num_elements(), "behind the last key");
}

INSTANTIATE_TEST_SUITE_P(Hopper, HopperMla, testing::ValuesIn(HopperTableNames()), NameOfParam);

// Its bits are its own, so they tell who computed.
TEST(HopperMlaEmulated, LeavesToTheRungBelowWhatDoesNotFit) {
  Random random(7);
  const std::shared_ptr<std::byte> memory = TestBytes(size_t{1} << 20);
  const cuda::KernelStream stream{.native = emulation::StreamInOrder(Order::kForward),
                                  .workspace = {memory.get(), size_t{1} << 20}};
  for (const int64_t heads : {64, 40}) {
    const MlaBatch batch(random, heads, 16, {{1, 40}});
    const Tensor got = batch.Out(), below = batch.Out();
    GpuTable("gpu_hopper_emulated").mla_attention(batch.Args(got), stream);
    GpuTable("gpu_tensor_emulated").mla_attention(batch.Args(below), stream);
    const bool same = std::memcmp(got.f32(), below.f32(), got.view().num_bytes()) == 0;
    EXPECT_EQ(same, heads == 40) << heads << " heads";
  }
}

}  // namespace
}  // namespace choir
