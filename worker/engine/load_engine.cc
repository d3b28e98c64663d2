// Engine::Make, apart from the rest: it alone needs the model families.
#include <utility>

#include "common/base/check.h"
#include "worker/comm/nccl_memory.h"
#include "worker/device/measuring_device.h"
#include "worker/engine/engine_impl.h"
#include "worker/model/slot_sizes.h"

namespace choir {

namespace {

StatusOr<std::unique_ptr<Model>> ModelFor(const EngineOptions& options,
                                          std::shared_ptr<const LoadedModel> loaded,
                                          const KernelSet* kernels, int num_ranks) {
  const ModelInfo& info = loaded->info();
  CHOIR_ASSIGN_OR_RETURN(const ModelLimits limits, Engine::LimitsFor(options, info, num_ranks));
  return MakeModel(std::move(loaded), kernels, limits);
}

}  // namespace

StatusOr<std::unique_ptr<Engine>> Engine::Make(const EngineOptions& options,
                                               std::shared_ptr<const LoadedModel> loaded,
                                               const KernelSet* kernels, int num_ranks, Sink sink) {
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                         ModelFor(options, std::move(loaded), kernels, num_ranks));
  return MakeWithModel(options, std::move(model), kernels, num_ranks, std::move(sink));
}

// By making all of it for a device that has no memory and counts.
StatusOr<size_t> Engine::BytesBeside(const EngineOptions& options,
                                     std::shared_ptr<const LoadedModel> sizes,
                                     const KernelSet* kernels, int num_ranks) {
  auto* const measuring = dynamic_cast<MeasuringDevice*>(&sizes->device());
  CHOIR_CHECK(measuring != nullptr);
  if (num_ranks > 1 && options.row_path != RowPath::kHost) {
    const ModelInfo& info = sizes->info();
    const SlotShape shape{num_ranks, info.top_k, info.hidden};
    measuring->LeaveForNccl(NcclBytes(SlotSizesOf(options.slots, shape), num_ranks));
  }
  CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                         ModelFor(options, std::move(sizes), kernels, num_ranks));
  CHOIR_RETURN_IF_ERROR(MakeEngineParts(options, std::move(model), kernels, num_ranks).status());
  return measuring->bytes();
}

}  // namespace choir
