// quantization_config of config.json: which block formats the weights may have. What a tensor
// really is, its file says; this says what is meant.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "worker/model/config/config_reader.h"

namespace choir {

struct QuantConfig {
  enum class Kind : uint8_t {
    kNone,
    kFp8,    // E4M3 with an f32 scale per 128 x 128 block: DeepSeek-V3, Qwen3 FP8
    kMxfp4,  // experts of gpt_oss
  } kind = Kind::kNone;
  std::vector<std::string> plain_modules;  // modules_to_not_convert

  // By name or by the name of a module around it. Patterns (with '*') are not looked at: they only
  // tell quantizers what to leave alone.
  bool Keeps(std::string_view module) const;
};

// Fails for what is not implemented, naming key and value.
QuantConfig ReadQuantization(ConfigReader* reader);

}  // namespace choir
