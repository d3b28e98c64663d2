#include "router/core/model_text.h"

#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"

namespace choir {
namespace {

std::vector<int32_t> EosOf(const TinyModel& model) {
  const auto text = ModelText::Load(model.dir(), 16);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? (*text)->defaults().eos_token_ids : std::vector<int32_t>{};
}

// As the worker reads them: one answer, one end.
TEST(ModelTextTest, GenerationConfigThenConfigThenTokenizerSayWhatEndsAnAnswer) {
  const TinyModel model;
  const std::string rest = R"("model_type":"llama","vocab_size":260,"max_position_embeddings":256)";
  model.Write("config.json", "{" + rest + R"(,"eos_token_id":[64,65]})");
  model.Write("generation_config.json", R"({"eos_token_id":69})");
  EXPECT_EQ(EosOf(model), (std::vector<int32_t>{69}));
  model.Write("generation_config.json", R"({"temperature":0.5})");
  EXPECT_EQ(EosOf(model), (std::vector<int32_t>{64, 65}));
  model.Write("config.json", "{" + rest + "}");
  EXPECT_EQ(EosOf(model), (std::vector<int32_t>{kTinyEos}));
}

}  // namespace
}  // namespace choir
