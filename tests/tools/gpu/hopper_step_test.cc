// Steps of Hopper's rung: rows that are rounded by who makes them give the bits of rows that
// products round, and a layer starts no more kernels than it has to.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "kernels/cuda/table_kernels.h"
#include "tests/tools/gpu/small_card.h"
#include "tools/gpu/slice_runner.h"
#include "worker/device/table_device.h"

namespace choir::gpu {
namespace {

// As small as rows that are rounded ahead may be.
ModelConfig RoundedConfig() {
  ModelConfig config = Must(SliceConfig({.small = true, .layers = 2, .experts = 16}), "config");
  config.hidden = 256;
  config.dense_width = 384;
  config.mla->q_lora = 128;
  config.mla->v_dim = 128;
  config.moe->width = config.moe->shared_width = 128;
  return config;
}

int experts_with_rounded_rows = 0;  // ops of the table below

cuda::KernelTable Rounding() {
  cuda::KernelTable t = emulation::EmulatedHopperTable();
  t.expert_ffn = [](const ExpertFfnArgs& a, const cuda::KernelStream& s) {
    experts_with_rounded_rows += a.x_order == RowOrder::kForF8;
    emulation::EmulatedHopperTable().expert_ffn(a, s);
  };
  return t;
}

cuda::KernelTable NotRounding() {
  cuda::KernelTable t = emulation::EmulatedHopperTable();
  t.order_of_rows = [](DType, int64_t, Compute) { return RowOrder::kNone; };
  return t;
}

constexpr SliceLimits kSmall{.rows_max = 80, .sequences_max = 3, .context = 80, .block_tokens = 16};

class HopperSteps : public testing::Test {
 protected:
  HopperSteps() {
    Must(device_->Use(), "the card");
    Must(device_->Reserve(size_t{64} << 20), "memory");
    std::vector<Piece> pieces;
    weights_ = Must(SliceWeights(config_, device_.get(), &pieces), "weights");
    for (const Piece& piece : pieces) card_.Fill(piece.at, piece.contents);
  }
  std::unique_ptr<SliceRunner> RunnerOf(int64_t layers, const KernelSet& kernels) {
    return Must(
        SliceRunner::Make(SliceOf(config_, weights_, layers, device_.get()), &kernels, kSmall),
        "a runner");
  }

  const ModelConfig config_ = RoundedConfig();
  const std::unique_ptr<Device> device_ = Must(MakeTableDevice(UsedDevice(), 0), "the card");
  Card card_{UsedDevice(), SmallCardOptions()};
  ModelWeights weights_;
};

TEST_F(HopperSteps, HaveTheSameBitsIfProductsRoundTheirRows) {
  const cuda::KernelTable tables[] = {NotRounding(), Rounding()};
  std::unique_ptr<KernelSet> kernels[2];
  std::unique_ptr<SliceRunner> runners[2];
  std::vector<std::vector<float>> logits[2];
  for (size_t i = 0; i < 2; ++i) {
    kernels[i] = MakeTableKernels(tables[i]);
    runners[i] = RunnerOf(2, *kernels[i]);
    for (size_t layer = 0; layer < runners[i]->pieces().size(); ++layer) {  // the same keys
      const TensorView& to = runners[i]->pieces()[layer].at;
      if (i == 0) card_.Fill(to, {.range = 1});
      if (i == 1) {
        Must(UsedDevice().copy(to.raw(), runners[0]->pieces()[layer].at.raw(), to.num_bytes(),
                               card_.stream()),
             "a copy");
      }
    }
    card_.Wait();
  }
  experts_with_rounded_rows = 0;
  for (size_t i = 0; i < 2; ++i) {
    Must(runners[i]->Prefill(70), "prefill");
    logits[i].push_back(Must(runners[i]->FirstLogits(), "logits"));
    for (const int64_t batch : {1, 3}) {
      Must(runners[i]->Decode(batch), "decode");
      logits[i].push_back(Must(runners[i]->FirstLogits(), "logits"));
    }
  }
  EXPECT_EQ(experts_with_rounded_rows, 3) << "a layer with experts in each step";
  ASSERT_EQ(logits[0].size(), logits[1].size());
  for (size_t step = 0; step < logits[0].size(); ++step) {
    for (size_t i = 0; i < logits[0][step].size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(logits[0][step][i]),
                std::bit_cast<uint32_t>(logits[1][step][i]))
          << "step " << step << ", logit " << i;
      ASSERT_TRUE(std::isfinite(logits[0][step][i]));
    }
  }
}

// Each costs a start and a wait for the one before it: with a batch of 1 that is a good part of a
// step. Who adds one here has a reason, or finds another one to do without.
TEST_F(HopperSteps, TakeFewKernelsALayer) {
  const auto kernels = MakeTableKernels(emulation::EmulatedHopperTable());
  int64_t started[3] = {};
  for (const int64_t layers : {1, 2}) {
    const auto runner = RunnerOf(layers, *kernels);
    const int64_t before = emulation::KernelsStarted();
    Must(runner->Decode(1), "decode");
    started[layers] = emulation::KernelsStarted() - before;
  }
  // Attention: norm, q_a with kv_a, norm, q, queries to latents, rope, store, attention, latents to
  // values, o. Experts: norm, router (of more than 256 columns another one), gate, places, rows,
  // up, down, sum; shared: up, glu, down.
  EXPECT_EQ(started[2] - started[1], 10 + 11);
  EXPECT_EQ(started[1], 10 + 4 + 5) << "a dense layer; embedding, rows, norm, head, sampler";
}

}  // namespace
}  // namespace choir::gpu
