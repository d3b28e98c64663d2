#include "tests/golden/golden.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/base/check.h"

namespace choir::golden {
namespace {

using nlohmann::json;

// Of the source tree: the one that was built from, or where tools/gpu_check runs on another
// machine.
std::string Root() {
  const char* elsewhere = std::getenv("CHOIR_SOURCE_DIR");
  return std::string(elsewhere != nullptr ? elsewhere : CHOIR_SOURCE_DIR) +
         "/tests/golden/checkpoints";
}

Prompt ReadPrompt(const json& j) {
  Prompt p;
  j.at("ids").get_to(p.ids);
  j.at("positions").get_to(p.positions);
  j.at("logits").get_to(p.logits);
  j.at("greedy").get_to(p.greedy);
  if (!j.contains("experts")) return p;
  for (const json& layer : j.at("experts")) {
    LayerRoutes routes;
    layer.at("layer").get_to(routes.layer);
    layer.at("ids").get_to(routes.ids);
    layer.at("weights").get_to(routes.weights);
    p.experts.push_back(std::move(routes));
  }
  return p;
}

}  // namespace

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(Root())) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  CHOIR_CHECK(!names.empty());
  return names;
}

std::string Dir(const std::string& name) { return Root() + "/" + name; }

Checkpoint Load(const std::string& name) {
  Checkpoint c;
  c.name = name;
  c.dir = Dir(name);
  std::ifstream file(c.dir + "/expected.json");
  CHOIR_CHECK(file.good());
  const json j = json::parse(file);
  j.at("family").get_to(c.family);
  j.at("dtype").get_to(c.dtype);
  j.at("vocab").get_to(c.vocab);
  for (const json& prompt : j.at("prompts")) c.prompts.push_back(ReadPrompt(prompt));
  return c;
}

float RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  CHOIR_CHECK(a.size() == b.size());
  float difference = 0;
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float d = std::fabs(a[i] - b[i]);
    if (std::isnan(d)) return d;
    difference = std::max(difference, d);
    largest = std::max(largest, std::fabs(b[i]));
  }
  return difference / largest;
}

}  // namespace choir::golden
