// Steps whose rows are rounded by who makes them give the bits of steps whose products do it.
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
  t.order_of_rows = [](const TensorView&, Compute) { return RowOrder::kNone; };
  return t;
}

TEST(RoundedRows, ChangeNoBitOfAStep) {
  const ModelConfig config = RoundedConfig();
  const cuda::KernelTable tables[] = {NotRounding(), Rounding()};
  const auto device = Must(MakeTableDevice(UsedDevice(), 0), "the card");
  Must(device->Use(), "the card");
  Must(device->Reserve(size_t{64} << 20), "memory");
  std::vector<Piece> pieces;
  const ModelWeights weights = Must(SliceWeights(config, device.get(), &pieces), "weights");
  Card card(UsedDevice(), SmallCardOptions());
  for (const Piece& piece : pieces) card.Fill(piece.at, piece.contents);
  std::unique_ptr<KernelSet> kernels[2];
  std::unique_ptr<SliceRunner> runners[2];
  std::vector<std::vector<float>> logits[2];
  for (size_t i = 0; i < 2; ++i) {
    kernels[i] = MakeTableKernels(tables[i]);
    runners[i] = Must(
        SliceRunner::Make(SliceOf(config, weights, 2, device.get()), kernels[i].get(),
                          {.rows_max = 80, .sequences_max = 3, .context = 80, .block_tokens = 16}),
        "a runner");
    for (size_t layer = 0; layer < runners[i]->pieces().size(); ++layer) {  // the same keys
      const TensorView& to = runners[i]->pieces()[layer].at;
      if (i == 0) card.Fill(to, {.range = 1});
      if (i == 1) {
        Must(UsedDevice().copy(to.raw(), runners[0]->pieces()[layer].at.raw(), to.num_bytes(),
                               card.stream()),
             "a copy");
      }
    }
    card.Wait();
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

}  // namespace
}  // namespace choir::gpu
