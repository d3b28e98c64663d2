// Rotary embedding: reading its config in both dialects, frequencies, tables.
// Formulas: RoFormer (arXiv 2104.09864), YaRN (arXiv 2309.00071), Llama 3.1's published scaling.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/model/config/config_reader.h"

namespace choir {

struct RopeConfig {
  enum class Type : uint8_t { kDefault, kLinear, kLlama3, kYarn };
  Type type = Type::kDefault;
  double theta = 10000.0;
  int64_t rotary_dim = 0;    // columns rotated; even
  bool interleaved = false;  // pairs (2i, 2i+1), else (i, i + rotary_dim / 2)
  double factor = 1.0;
  double original_positions = 0;                     // llama3, yarn
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  bool truncate = true;                              // yarn
  double table_scale = 1.0;  // yarn's attention factor, multiplied into cos and sin
  double mscale_all_dim = 0;

  // DeepSeek's factor on the softmax scale: m(mscale_all_dim)^2 where that is set, else 1.
  double SoftmaxFactor() const;
};

// What a family has where its config says nothing.
struct RopeDefaults {
  double partial = 1.0;  // partial_rotary_factor
  double theta = 10000;
  const char* scaling = "{}";  // JSON: rope_scaling
};

// `head_columns`: columns of a head that could rotate. `positions_max`: the model's
// max_position_embeddings, which stands for absent original lengths.
RopeConfig ReadRope(ConfigReader* reader, int64_t head_columns, int64_t positions_max,
                    const RopeDefaults& defaults);

// rotary_dim / 2 frequencies in FP32, as they are multiplied with positions.
std::vector<float> RopeFrequencies(const RopeConfig& rope);

// Rows [begin, end) of cos and sin: [positions, rotary_dim / 2], row-major.
void FillRopeTables(const RopeConfig& rope, int64_t begin, int64_t end, std::span<float> cos,
                    std::span<float> sin);

}  // namespace choir
