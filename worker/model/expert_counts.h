// Which experts are busy, kept over restarts: a worker writes the rows that its experts computed,
// as JSON, and a later one decides by them what its device holds (host_experts.h).
//
//   {"experts": 4, "layers": {"1": [120, 7, 0, 33], "2": [90, 61, 5, 4]}}
//
// Layers are named by their index in the model; each has a number for every expert. Of the ranks of
// a group each writes its own; read together they add up. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "worker/model/config/model_config.h"
#include "worker/model/model.h"

namespace choir {

// Unavailable: the file cannot be written.
Status WriteExpertCounts(const std::string& path, const ExpertCounts& counts);

// The sum of the files, for the model of `config`: rows by layer of the model and expert; empty for
// layers without. NotFound, or InvalidArgument with file, field and what is wrong.
using ExpertRows = std::vector<std::vector<uint64_t>>;
StatusOr<ExpertRows> ReadExpertCounts(const std::vector<std::string>& paths,
                                      const ModelConfig& config);

}  // namespace choir
