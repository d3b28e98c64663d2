// The JSON files and the model card of the demo model, from the metadata of its GGUF file.
#pragma once

#include <string>

#include "common/base/status.h"
#include "tools/model/expert_split.h"
#include "tools/model/gguf.h"

namespace choir {

struct DenseShape {
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t ffn = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
  int64_t context = 0;
  double theta = 0;
  double eps = 0;
};

// Checked: a llama GGUF with a tied output head and sizes in sane ranges.
StatusOr<DenseShape> ReadDenseShape(const Gguf& gguf);

struct ModelText {
  std::string config;
  std::string generation_config;
  std::string tokenizer;
  std::string tokenizer_config;
  std::string card;
};

// `split` is null for the dense model.
StatusOr<ModelText> MakeModelText(const Gguf& gguf, const DenseShape& shape,
                                  const ExpertSplit* split);

}  // namespace choir
