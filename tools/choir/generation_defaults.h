// What a model's generation_config.json says about sampling, for fields that a request leaves out.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"

namespace choir {

struct GenerationDefaults {
  double temperature = 1.0;
  double top_p = 1.0;
  int32_t top_k = 0;  // off
};

// A directory without the file has the defaults above. InvalidArgument names file, key and value.
StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& model_dir);

}  // namespace choir
