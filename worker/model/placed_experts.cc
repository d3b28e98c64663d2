#include "worker/model/placed_experts.h"

#include <utility>

#include "common/base/check.h"
#include "worker/model/loaded_model.h"
#include "worker/model/weights/bind_weights.h"

namespace choir {
namespace {

// Keeps one expert's weights; gives its pages of the mapped files back when nobody computes with it
// any more. Conversions of the load at the start belong to its store and stay.
struct ExpertMemory {
  ExpertMemory(std::shared_ptr<const WeightFiles> of, const ExpertWeights& weights,
               std::unique_ptr<WeightStore> own = nullptr)
      : files(std::move(of)), views(weights), store(std::move(own)) {}
  ~ExpertMemory() {
    for (const TensorView* t :
         {&views.gate, &views.up, &views.down, &views.gate_scale, &views.up_scale,
          &views.down_scale, &views.gate_bias, &views.down_bias}) {
      if (!t->empty()) files->Forget(t->raw(), t->num_bytes());
    }
  }
  ExpertMemory(const ExpertMemory&) = delete;
  ExpertMemory& operator=(const ExpertMemory&) = delete;

  const std::shared_ptr<const WeightFiles> files;
  const ExpertWeights views;
  const std::unique_ptr<WeightStore> store;  // null: the model's own
};

// Makes one PlacedExperts.
class Placer {
 public:
  Placer(const LoadedParts& parts, const PlacedExperts* before) : parts_(parts), before_(before) {
    for (size_t l = 0; l < parts.weights.layers.size(); ++l) {
      if (parts.weights.layers[l].moe) model_layers_.push_back(l);
    }
  }

  StatusOr<std::shared_ptr<const PlacedExperts>> Place(std::vector<ExpertPlacement> layers,
                                                       int32_t rank, const std::stop_token& stop) {
    CHOIR_CHECK(layers.size() == model_layers_.size());
    to_->rank = rank;
    to_->layers = std::move(layers);
    to_->weights.resize(to_->layers.size());
    to_->memory.resize(to_->layers.size());
    for (size_t l = 0; l < to_->layers.size(); ++l) {
      for (const int32_t expert : to_->layers[l].ExpertsOf(rank)) {
        if (Keep(l, expert) || TakeFirst(l, expert)) continue;
        if (stop.stop_requested()) return Cancelled("the placement of experts is given up");
        CHOIR_RETURN_IF_ERROR(Load(l, expert));
      }
    }
    return to_;
  }

 private:
  // Serves already.
  bool Keep(size_t layer, int32_t expert) {
    if (before_ == nullptr) return false;
    const int32_t slot = before_->layers[layer].SlotOf(before_->rank, expert);
    if (slot < 0) return false;
    const auto i = static_cast<size_t>(slot);
    Add(layer, before_->weights[layer][i], before_->memory[layer][i]);
    return true;
  }

  // Was loaded at the start.
  bool TakeFirst(size_t layer, int32_t expert) {
    if (!parts_.own.Has(expert)) return false;
    const MoeWeights& moe = *parts_.weights.layers[model_layers_[layer]].moe;
    const ExpertWeights& weights = moe.experts[static_cast<size_t>(expert)];
    std::shared_ptr<const void> memory;
    if (parts_.store != nullptr) {
      memory = std::make_shared<const ExpertMemory>(parts_.store->shared_files(), weights);
    }
    Add(layer, weights, std::move(memory));
    return true;
  }

  Status Load(size_t layer, int32_t expert) {
    if (parts_.store == nullptr) {
      return Unimplemented("layer {} expert {}: weights on a device stay where they were loaded",
                           model_layers_[layer], expert);
    }
    auto store =
        std::make_unique<WeightStore>(parts_.store->shared_files(), parts_.store->matrix_dtype());
    const WeightNames& names = *FindFamily(parts_.config.family)->names;
    const ExpertWeights weights = BindExpert(
        parts_.config, names, static_cast<int64_t>(model_layers_[layer]), expert, store.get());
    CHOIR_RETURN_IF_ERROR(store->Load({}, /*threads=*/1));
    if (!to_->weights[layer].empty() &&
        to_->weights[layer][0].gate.dtype() != weights.gate.dtype()) {
      return InvalidArgument(
          "{}: layer {} expert {}: dtype: experts of a layer differ in dtype; save the model in "
          "one",
          parts_.store->files().dir(), model_layers_[layer], expert);
    }
    auto memory = std::make_shared<const ExpertMemory>(parts_.store->shared_files(), weights,
                                                       std::move(store));
    Add(layer, weights, std::move(memory));
    ++to_->loaded;
    return absl::OkStatus();
  }

  void Add(size_t layer, const ExpertWeights& weights, std::shared_ptr<const void> memory) {
    to_->weights[layer].push_back(weights);
    to_->memory[layer].push_back(std::move(memory));
  }

  const LoadedParts& parts_;
  const PlacedExperts* const before_;
  std::vector<size_t> model_layers_;  // by layer with experts
  const std::shared_ptr<PlacedExperts> to_ = std::make_shared<PlacedExperts>();
};

}  // namespace

std::vector<ExpertPlacement> FirstPlacement(const ModelInfo& info, int32_t num_ranks) {
  return std::vector(static_cast<size_t>(info.expert_layers),
                     ExpertPlacement(info.num_experts, num_ranks));
}

// For models whose experts have no weights of their own.
StatusOr<std::shared_ptr<const PlacedExperts>> LoadedModel::PlaceExperts(
    std::vector<ExpertPlacement> layers, int32_t rank, const PlacedExperts* before,
    const std::stop_token&) const {
  auto placed = std::make_shared<PlacedExperts>();
  placed->rank = rank;
  for (size_t l = 0; before != nullptr && l < layers.size(); ++l) {
    for (const int32_t e : layers[l].ExpertsOf(rank)) {
      placed->loaded += before->layers[l].SlotOf(rank, e) < 0;
    }
  }
  placed->layers = std::move(layers);
  return placed;
}

StatusOr<std::shared_ptr<const PlacedExperts>> LoadedTransformer::PlaceExperts(
    std::vector<ExpertPlacement> layers, int32_t rank, const PlacedExperts* before,
    const std::stop_token& stop) const {
  return Placer(parts_, before).Place(std::move(layers), rank, stop);
}

}  // namespace choir
