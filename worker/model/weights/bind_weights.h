// Finds every tensor a config asks for, under the family's names.
#pragma once

#include "worker/model/config/model_config.h"
#include "worker/model/families/family.h"
#include "worker/model/host_experts.h"
#include "worker/model/weights/model_weights.h"
#include "worker/model/weights/quantized_weights.h"
#include "worker/model/weights/weight_store.h"

namespace choir {

// Problems are in store->status(). Tensors that no layer asks for (such as those of prediction
// layers beyond num_hidden_layers) are left alone. Experts of `host` are treated as other ranks'.
ModelWeights BindWeights(const ModelConfig& config, const WeightNames& names, ExpertRange own,
                         WeightStore* store, const HostExperts& host = {});

// One routed expert of a layer that has them.
ExpertWeights BindExpert(const ModelConfig& config, const WeightNames& names, int64_t layer,
                         int64_t expert, WeightStore* store);

}  // namespace choir
