#include "tools/choir/offline_engines.h"

#include "worker/comm/local_collectives.h"
#include "worker/kv/block_table.h"

namespace choir {

StatusOr<std::unique_ptr<OfflineEngines>> OfflineEngines::Start(const OfflineModel& model,
                                                                EngineOptions options,
                                                                const SinkFor& sink_for) {
  std::unique_ptr<OfflineEngines> engines(new OfflineEngines);
  options.num_threads = model.threads_per_rank;
  for (int r = 0; r < model.ranks; ++r) {
    CHOIR_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                           Engine::Make(options, model.loaded, model.kernels.get(), model.ranks,
                                        sink_for(static_cast<size_t>(r))));
    engines->engines_.push_back(std::move(engine));
  }
  if (model.ranks == 1) {
    engines->engines_[0]->SetEpoch(MakeSingleCollectives(1));
  } else {
    auto collectives = MakeLocalCollectives(model.ranks, 1, {});
    for (size_t r = 0; r < collectives.size(); ++r) {
      engines->engines_[r]->SetEpoch(std::move(collectives[r]));
    }
  }
  for (const auto& engine : engines->engines_) {
    engines->threads_.emplace_back([e = engine.get()] { e->Run(); });
  }
  return engines;
}

OfflineEngines::~OfflineEngines() {
  for (const auto& engine : engines_) engine->Stop();
  threads_.clear();
}

uint64_t KvBytesFor(const LoadedModel& model, int64_t sequences, int64_t tokens,
                    int64_t block_tokens) {
  // One block more each: the scheduler keeps one free for every running sequence.
  const int64_t blocks = sequences * (BlocksFor(tokens, block_tokens) + 1);
  return static_cast<uint64_t>(blocks * block_tokens * model.kv_layout().BytesPerToken());
}

}  // namespace choir
