// Engine::Make, apart from the rest: it alone needs the model families.
#include <utility>

#include "worker/engine/engine.h"

namespace choir {

StatusOr<std::unique_ptr<Engine>> Engine::Make(const EngineOptions& options,
                                               std::shared_ptr<const LoadedModel> loaded,
                                               const KernelSet* kernels, int num_ranks, Sink sink) {
  const ModelInfo& info = loaded->info();
  CHOIR_ASSIGN_OR_RETURN(const ModelLimits limits, LimitsFor(options, info, num_ranks));
  CHOIR_ASSIGN_OR_RETURN(
      std::unique_ptr<Model> model,
      MakeModel(std::move(loaded), kernels, ExpertPlacement(info.num_experts, num_ranks), limits));
  return MakeWithModel(options, std::move(model), kernels, num_ranks, std::move(sink));
}

}  // namespace choir
