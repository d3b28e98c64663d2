// config.json and generation_config.json: what is accepted has sizes that the layers can rely on.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/base/check.h"
#include "tests/fuzz/json_mutator.h"
#include "worker/model/config/model_config.h"
#include "worker/model/families/family.h"

namespace choir {
namespace {

// The readers take a directory; this one lives in memory where the machine has such a place.
const std::string& Directory() {
  static const std::string* const kDirectory = [] {
    std::error_code error;
    const bool memory = std::filesystem::is_directory("/dev/shm", error);
    std::string name = std::string(memory ? "/dev/shm" : "/tmp") + "/choir_fuzz_XXXXXX";
    CHOIR_CHECK(mkdtemp(name.data()) != nullptr);
    std::atexit([] { std::filesystem::remove_all(Directory()); });
    return new std::string(name);
  }();
  return *kDirectory;
}

void Write(const std::string& name, const std::string& text) {
  std::ofstream(Directory() + "/" + name, std::ios::binary | std::ios::trunc) << text;
}

void CheckRope(const RopeConfig& rope) {
  CHOIR_CHECK(rope.rotary_dim > 0 && rope.rotary_dim % 2 == 0);
  for (const float f : RopeFrequencies(rope)) CHOIR_CHECK(std::isfinite(f));
  std::vector<float> cos(static_cast<size_t>(rope.rotary_dim)), sin(cos.size());
  FillRopeTables(rope, 0, 2, cos, sin);
  for (const float c : cos) CHOIR_CHECK(std::isfinite(c));
}

void CheckAccepted(const ModelConfig& c) {
  CHOIR_CHECK(c.vocab > 0 && c.hidden > 0 && c.layers > 0 && c.positions_max > 0);
  CHOIR_CHECK(std::isfinite(c.norm_eps) && std::isfinite(c.softmax_scale));
  CHOIR_CHECK(c.gqa.has_value() != c.mla.has_value());
  CheckRope(c.rope);
  if (c.gqa) CHOIR_CHECK(c.gqa->heads % c.gqa->kv_heads == 0 && c.gqa->head_dim > 0);
  if (c.moe) {
    CHOIR_CHECK(c.moe->top_k >= 1 && c.moe->top_k <= c.moe->experts);
    CHOIR_CHECK(c.moe->experts % c.moe->num_groups == 0);
    CHOIR_CHECK(c.moe->layers.size() == static_cast<size_t>(c.layers));
  }
  for (const int32_t id : c.eos_ids) CHOIR_CHECK(id >= 0 && id < c.vocab);
}

}  // namespace
}  // namespace choir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto [config, generation] = choir::fuzz::SplitInput(data, size);
  choir::Write("config.json", config);
  std::filesystem::remove(choir::Directory() + "/generation_config.json");
  if (!generation.empty()) choir::Write("generation_config.json", generation);
  const auto read = choir::ReadModelConfig(choir::Directory());
  if (read.ok()) choir::CheckAccepted(*read);
  return 0;
}
