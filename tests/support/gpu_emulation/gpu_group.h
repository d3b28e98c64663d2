// A model on N ranks that each compute on a device of their own, as threads of the test.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/gpu_emulation/gpu_ranks.h"
#include "tests/support/gpu_emulation/nccl_ranks.h"
#include "tests/support/run_ranks.h"
#include "worker/model/model_runner.h"

namespace choir {

struct GpuGroup {
  std::string model_dir;
  std::string dtype = "f32";
  std::string table;  // of GpuTableNames()
  int ranks = 1;
  bool f8_rows = false;
  bool nccl = false;  // rows go from card to card; emulated ones only
  HostExpertOptions host_experts;
  int32_t redundant_experts = 0;
};

inline constexpr DeviceSlotSizes kSlots{1 << 20, 1 << 20};  // more than tiny models need

inline std::vector<std::unique_ptr<Collectives>> MakeGpuCollectives(const GpuGroup& group) {
  const bool nccl = group.nccl && group.ranks > 1;
  return nccl ? MakeNcclRanks(group.ranks, 1, {.slots = kSlots})
              : MakeLocalCollectives(group.ranks, 1, {});
}

inline std::shared_ptr<const LoadedModel> LoadOnGpu(const GpuGroup& group, const GpuRank& gpu,
                                                    int rank, BytesBesideWeights beside) {
  LoadOptions options{
      .model_dir = group.model_dir, .dtype = group.dtype, .rank = rank, .num_ranks = group.ranks};
  options.device = gpu.device.get();
  options.f8_rows = group.f8_rows;
  options.beside_weights = std::move(beside);
  options.host_experts = group.host_experts;
  options.redundant_experts = group.redundant_experts;
  auto loaded = LoadModel(options, *gpu.kernels);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? *loaded : nullptr;
}

// Calls fn(rank, runner) for each rank on its own thread. fn must step equally often on all of
// them.
inline void RunGpuGroup(const GpuGroup& group, const RunnerOptions& options,
                        const std::function<void(int rank, ModelRunner& runner)>& fn) {
  static constexpr size_t kBeside = size_t{32} << 20;  // more than tiny models need
  auto ranks = MakeGpuCollectives(group);
  RunRanks(ranks, [&](Collectives& collectives) {
    const GpuRank gpu = MakeGpuRank(group.table, collectives.rank());
    const auto loaded = LoadOnGpu(group, gpu, collectives.rank(), [](auto) { return kBeside; });
    ASSERT_NE(loaded, nullptr);
    auto runner = ModelRunner::Make(loaded, gpu.kernels.get(), &collectives, options);
    ASSERT_TRUE(runner.ok()) << runner.status();
    fn(collectives.rank(), **runner);
  });
}

}  // namespace choir
