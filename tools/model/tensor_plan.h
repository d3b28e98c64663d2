// All tensors that a model of a config has, with what each is for: for making random weights,
// counting parameters, and comparing with the files that are there. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "worker/model/config/model_config.h"
#include "worker/model/families/family.h"

namespace choir {

enum class TensorRole : uint8_t {
  kEmbedding,  // also the output head when that is tied
  kHead,
  kNorm,
  kInput,   // reads the residual stream, or something of its scale
  kOutput,  // adds to the residual stream
  kBias,
  kRouter,
  kCorrectionBias,
  kF8Scale,  // of the tensor before it
  kF4Codes,  // two in a byte
  kF4InputScale,
  kF4OutputScale,  // exponents, of the codes before it
};

struct PlannedTensor {
  std::string name;
  std::vector<int64_t> shape;
  TensorRole role = TensorRole::kInput;
  bool routed = false;              // of a routed expert
  std::optional<DType> dtype = {};  // where it is not the model's

  int64_t num_elements() const;
  int64_t parameters() const;  // weights that it holds: none in scales, two in a byte of codes
};

// Embedding first, then layer by layer, final norm and head. With quantization_config every matrix
// that may be is in its format. A config can ask for more tensors than memory holds: the plan ends
// with the first beyond `most`.
std::vector<PlannedTensor> PlanTensors(const ModelConfig& config, const WeightNames& names,
                                       size_t most);

struct ParameterCount {
  int64_t total = 0;
  int64_t active = 0;  // that one token uses; of the embedding, a tied head's share only
};
ParameterCount CountParameters(const ModelConfig& config, const std::vector<PlannedTensor>& plan);

}  // namespace choir
