// Configs of random models: a family's small default or a published model's shape, with overrides.
// Pure.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace choir {

// An option of `choir model random` that sets one number of the config.
struct ShapeOption {
  const char* flag;  // "--hidden"
  const char* key;   // "hidden_size"
  const char* help;
  std::array<std::string_view, 2> other_keys = {};  // of families that name it otherwise

  bool Is(std::string_view name) const;  // one of its keys
};
std::span<const ShapeOption> ShapeOptions();

struct RandomConfigRequest {
  std::string family;                        // may be empty when `like` says it
  std::string like;                          // a name of LikeNames(), or empty
  std::map<std::string, int64_t> overrides;  // ShapeOption::key -> value; q_lora_rank 0: none
  std::string dtype = "bf16";                // a name of RandomDTypes()
};

std::vector<std::string> RandomFamilies();
std::vector<std::string> RandomDTypes();
std::vector<std::string> LikeNames();

// config.json. Numbers that follow from an override are adapted unless they are given too:
// key-value heads to heads, groups to experts, dense layers to layers. InvalidArgument names the
// option that does not fit the family.
StatusOr<nlohmann::ordered_json> MakeRandomConfig(const RandomConfigRequest& request);

}  // namespace choir
