#include "worker/model/placed_experts.h"

#include <algorithm>
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
    for (size_t l = 0; l < layers.size(); ++l) {
      const size_t layer = model_layers_[l];
      if (!parts_.host.empty()) layers[l] = DeviceFirst(layers[l], layer, parts_.host);
      const std::vector<int32_t>& own = layers[l].ExpertsOf(rank);
      to_->device_slots.push_back(static_cast<size_t>(std::count_if(
          own.begin(), own.end(), [&](int32_t e) { return !parts_.host.Has(layer, e); })));
    }
    to_->layers = std::move(layers);
    to_->weights.resize(to_->layers.size());
    to_->memory.resize(to_->layers.size());
    // What is there first: what is read may take the place of what nobody holds.
    std::vector<std::pair<size_t, size_t>> missing;  // layer, slot
    for (size_t l = 0; l < to_->layers.size(); ++l) {
      const std::vector<int32_t>& own = to_->layers[l].ExpertsOf(rank);
      to_->weights[l].resize(own.size());
      to_->memory[l].resize(own.size());
      for (size_t slot = 0; slot < own.size(); ++slot) {
        if (!Keep(l, slot) && !TakeFirst(l, slot)) missing.emplace_back(l, slot);
      }
    }
    for (const auto& [l, slot] : missing) {
      if (stop.stop_requested()) return Cancelled("the placement of experts is given up");
      CHOIR_RETURN_IF_ERROR(Load(l, slot, stop));
      CHOIR_RETURN_IF_ERROR(CheckDType(l, slot));
      ++to_->loaded;
    }
    return to_;
  }

 private:
  // Serves already.
  bool Keep(size_t layer, size_t slot) {
    if (before_ == nullptr) return false;
    const int32_t there = before_->layers[layer].SlotOf(before_->rank, ExpertOf(layer, slot));
    if (there < 0) return false;
    const auto i = static_cast<size_t>(there);
    Put(layer, slot, before_->weights[layer][i], before_->memory[layer][i]);
    return true;
  }

  // Was loaded at the start, or is on the device yet.
  bool TakeFirst(size_t layer, size_t slot) {
    const int32_t expert = ExpertOf(layer, slot);
    if (parts_.room != nullptr) {
      std::optional<ExpertRoom::Held> held = parts_.room->TryHold(model_layers_[layer], expert);
      if (held) Put(layer, slot, held->weights, std::move(held->memory));
      return held.has_value();
    }
    if (!parts_.own.Has(expert)) return false;
    const MoeWeights& moe = *parts_.weights.layers[model_layers_[layer]].moe;
    const ExpertWeights& weights = moe.experts[static_cast<size_t>(expert)];
    std::shared_ptr<const void> memory;
    if (parts_.store != nullptr) {
      memory = std::make_shared<const ExpertMemory>(parts_.store->shared_files(), weights);
    }
    Put(layer, slot, weights, std::move(memory));
    return true;
  }

  Status Load(size_t layer, size_t slot, const std::stop_token& stop) {
    const int32_t expert = ExpertOf(layer, slot);
    const auto model_layer = static_cast<int64_t>(model_layers_[layer]);
    if (parts_.files == nullptr) {
      return FailedPrecondition("layer {} expert {}: the model was loaded without room for more",
                                model_layer, expert);
    }
    auto store = std::make_unique<WeightStore>(parts_.files, parts_.matrix_dtype);
    const WeightNames& names = *FindFamily(parts_.config.family)->names;
    const ExpertWeights weights =
        BindExpert(parts_.config, names, model_layer, expert, store.get());
    CHOIR_RETURN_IF_ERROR(store->status());
    if (parts_.room != nullptr) {
      CHOIR_ASSIGN_OR_RETURN(ExpertRoom::Held held, parts_.room->Read(model_layers_[layer], expert,
                                                                      *store, weights, stop));
      Put(layer, slot, held.weights, std::move(held.memory));
      return absl::OkStatus();
    }
    CHOIR_RETURN_IF_ERROR(store->Load({}, /*threads=*/1));
    auto memory = std::make_shared<const ExpertMemory>(parts_.files, weights, std::move(store));
    Put(layer, slot, weights, std::move(memory));
    return absl::OkStatus();
  }

  // One op computes the experts of a layer over one dtype. Others of the layer are there already,
  // or there are none.
  Status CheckDType(size_t layer, size_t slot) const {
    const std::vector<ExpertWeights>& all = to_->weights[layer];
    const auto other = std::find_if(all.begin(), all.end(),
                                    [](const ExpertWeights& w) { return !w.gate.empty(); });
    if (other->gate.dtype() == all[slot].gate.dtype()) return absl::OkStatus();
    return InvalidArgument(
        "{}: layer {} expert {}: dtype: experts of a layer differ in dtype; save the model in one",
        parts_.files->dir(), model_layers_[layer], ExpertOf(layer, slot));
  }

  int32_t ExpertOf(size_t layer, size_t slot) const {
    return to_->layers[layer].ExpertsOf(to_->rank)[slot];
  }
  void Put(size_t layer, size_t slot, const ExpertWeights& weights,
           std::shared_ptr<const void> memory) {
    to_->weights[layer][slot] = weights;
    to_->memory[layer][slot] = std::move(memory);
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
