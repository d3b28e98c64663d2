// The numerics id: what must be equal for two workers to give the same bits (docs/decisions/0002).
#pragma once

#include <string>

#include "common/base/status.h"
#include "worker/model/files/weight_files.h"

namespace choir {

// Raise by hand whenever the bits of a logit may change: kernels, order of a sum, a formula.
inline constexpr int kNumericsVersion = 1;

// Up to here every byte of the weights is hashed; above, a fixed sample of each tensor.
inline constexpr int64_t kFullDigestMaxBytes = int64_t{1} << 30;

// SHA-256 in hex over names, dtypes, shapes and content, taken in parallel, without leaving the
// content in this process's memory. cache_dir "": nothing is kept.
StatusOr<std::string> WeightsDigest(const WeightFiles& files, const std::string& cache_dir);

// 64 digits of 0-9a-f.
bool IsHexDigest(const std::string& text);

struct NumericsParts {
  std::string weights_digest;
  std::string config_text;  // config.json as it is
  std::string dtype;        // "bf16"
  std::string kernel_set;
};
std::string NumericsId(const NumericsParts& parts);

}  // namespace choir
