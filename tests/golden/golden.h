// Reads tests/golden/checkpoints (see README.md there) for tests. Aborts the test binary when a
// file is missing or malformed: they are part of the source tree.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace choir::golden {

struct LayerRoutes {
  int layer = 0;
  std::vector<std::vector<int32_t>> ids;    // by prompt token, ascending ids
  std::vector<std::vector<float>> weights;  // same order
};

struct Prompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;          // ascending
  std::vector<std::vector<float>> logits;  // by positions, [vocab]
  std::vector<int32_t> greedy;             // 64 tokens that follow
  std::vector<LayerRoutes> experts;        // MoE layers, ascending
};

struct Checkpoint {
  std::string name;
  std::string dir;
  std::string family;
  std::string dtype;  // "float32", "bfloat16": of the files; expectations are computed in float32
  int32_t vocab = 0;
  std::vector<Prompt> prompts;
};

std::vector<std::string> Names();          // all directories, sorted
std::string Dir(const std::string& name);  // path of one
Checkpoint Load(const std::string& name);

// max|a-b| / max|b|, the error measure of logits; b is the expectation.
float RelativeError(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace choir::golden
