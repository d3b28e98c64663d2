// Broken and hostile model directories: each gives one error that names the file and the field.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "kernels/kernels.h"
#include "tests/support/model_dir.h"
#include "worker/model/model.h"

namespace choir {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kWeights[] = "model.safetensors";
constexpr char kQ[] = "model.layers.0.self_attn.q_proj.weight";

Status Load(const ModelDir& dir, const std::string& dtype = "auto") {
  return LoadModel({.model_dir = dir.path(), .dtype = dtype}, *MakeReferenceKernels()).status();
}

void ExpectRefused(const ModelDir& dir, const std::string& file, const std::string& field) {
  const Status status = Load(dir);
  ASSERT_FALSE(status.ok()) << file << " " << field;
  const std::string message = MessageOf(status);
  EXPECT_THAT(message, HasSubstr(dir.File(file)));
  EXPECT_THAT(message, HasSubstr(field));
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 600u) << message;
}

TEST(DamagedDir, UndamagedCopiesLoad) {
  EXPECT_TRUE(Load(ModelDir("tiny_llama")).ok());
  EXPECT_TRUE(Load(ModelDir("deepseek_v3_yarn")).ok());
}

TEST(DamagedDir, MissingFilesAreNamed) {
  EXPECT_THAT(
      MessageOf(LoadModel({.model_dir = "/nonexistent/m"}, *MakeReferenceKernels()).status()),
      HasSubstr("/nonexistent/m"));
  const ModelDir no_config("tiny_llama");
  no_config.Remove("config.json");
  ExpectRefused(no_config, "config.json", "missing");
  const ModelDir no_weights("tiny_llama");
  no_weights.Remove(kWeights);
  ExpectRefused(no_weights, kWeights, "missing");
  const ModelDir no_shard("llama_biased");
  no_shard.Remove("model-00002-of-00003.safetensors");
  ExpectRefused(no_shard, "model-00002-of-00003.safetensors", "missing");
}

TEST(DamagedDir, ALayerThatTheConfigDoesNotKnowIsNoMtpLayer) {
  const ModelDir dir("deepseek_v3_yarn");  // has one MTP layer, and says so
  dir.SetConfig("num_nextn_predict_layers", 0);
  const Status status = Load(dir);
  EXPECT_THAT(MessageOf(status), HasSubstr("layers.3."));
}

TEST(DamagedDir, PickleIsRefusedByName) {
  const ModelDir dir("tiny_llama");
  dir.Remove(kWeights);
  dir.Write("pytorch_model.bin", "\x80\x02.");
  ExpectRefused(dir, "pytorch_model.bin", "pickle");
}

TEST(DamagedDir, OddKindsOfFilesAreRefused) {
  const ModelDir circular("tiny_llama");
  circular.Remove(kWeights);
  std::filesystem::create_symlink(circular.File(kWeights), circular.File(kWeights));
  ExpectRefused(circular, kWeights, "circular");
  const ModelDir pipe("tiny_llama");
  pipe.Remove(kWeights);
  ASSERT_EQ(mkfifo(pipe.File(kWeights).c_str(), 0600), 0);
  ExpectRefused(pipe, kWeights, "regular file");
  const ModelDir folder("tiny_llama");
  folder.Remove("config.json");
  std::filesystem::create_directory(folder.File("config.json"));
  ExpectRefused(folder, "config.json", "regular file");
}

TEST(DamagedDir, HeaderLengthIsCheckedAgainstTheFile) {
  const ModelDir empty("tiny_llama");
  empty.Write(kWeights, "");
  ExpectRefused(empty, kWeights, "header length");
  for (const uint64_t length : {uint64_t{100'000'001}, ~uint64_t{0}, uint64_t{1} << 40}) {
    const ModelDir dir("tiny_llama");
    std::string file = dir.Read(kWeights);
    file.replace(0, 8, reinterpret_cast<const char*>(&length), 8);
    dir.Write(kWeights, file);
    ExpectRefused(dir, kWeights, "header length");
  }
}

TEST(DamagedDir, ACutFileIsRefusedWhereverItIsCut) {
  const std::string whole = ModelDir("tiny_llama").Read(kWeights);
  for (size_t keep = 0; keep < whole.size(); keep += whole.size() / 37 + 1) {
    const ModelDir dir("tiny_llama");
    dir.Write(kWeights, whole.substr(0, keep));
    ExpectRefused(dir, kWeights, "");
  }
  const ModelDir longer("tiny_llama");
  longer.Write(kWeights, whole + "tail");
  ExpectRefused(longer, kWeights, "size");
}

TEST(DamagedDir, HeaderJsonIsReadStrictly) {
  const std::vector<std::pair<std::string, std::string>> headers = {
      {"", "JSON"},
      {"{", "JSON"},
      {"[]", "header"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[NaN],\"data_offsets\":[0,4]}}", "JSON"},
      {"{\"a\":1,\"a\":2}", "a"},
      {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
       "dtype"},
      {"{\"a\":1e999}", "JSON"},
      {"{\"\xff\":1}", "JSON"},
      {std::string(200'000, '['), "nested"},
  };
  for (const auto& [header, field] : headers) {
    const ModelDir dir("tiny_llama");
    dir.ReplaceHeader(kWeights, header);
    ExpectRefused(dir, kWeights, field);
  }
}

TEST(DamagedDir, AHugeHeaderIsLeftAsSoonAsItIsTooMuch) {
  std::string header = "{\"a\":[0";
  while (header.size() < 5'000'000) header += ",0";
  const ModelDir dir("tiny_llama");
  dir.ReplaceHeader(kWeights, header + "]}");
  ExpectRefused(dir, kWeights, "values");
}

TEST(DamagedDir, TensorEntriesAreChecked) {
  const json huge = uint64_t{1} << 62;
  const std::vector<std::pair<std::string, json>> edits = {
      {"dtype", nullptr},
      {"dtype", 7},
      {"dtype", "F33"},
      {"dtype", "BF16"},  // another size
      {"shape", nullptr},
      {"shape", "x"},
      {"shape", {-1, 90}},
      {"shape", {1.5, 90}},
      {"shape", {huge, huge}},
      {"shape", {huge, 4, 0}},
      {"shape", {1, 1, 1, 1, 1, 1, 1, 1, 1}},
      {"shape", {0, 0}},
      {"data_offsets", nullptr},
      {"data_offsets", {0}},
      {"data_offsets", {0, 4, 8}},
      {"data_offsets", {-4, 0}},
      {"data_offsets", {8, 4}},
      {"data_offsets", {0, huge}},
      {"data_offsets", {huge, huge}},
      {"data_offsets", {"0", "4"}},
      {"data_offsets", {0.0, 4.0}},
  };
  for (const auto& [field, value] : edits) {
    const ModelDir dir("tiny_llama");
    dir.EditHeader(kWeights,
                   [&field = field, &value = value](json& header) { header[kQ][field] = value; });
    ExpectRefused(dir, kWeights, kQ);
  }
}

TEST(DamagedDir, OverlappingTensorsAreRefused) {
  const ModelDir dir("tiny_llama");
  dir.EditHeader(kWeights, [&](json& header) {
    header["extra"] = header[kQ];  // the same bytes twice
  });
  ExpectRefused(dir, kWeights, "overlap");
}

TEST(DamagedDir, MissingAndMisshapenTensorsAreNamed) {
  const ModelDir renamed("tiny_llama");
  renamed.EditHeader(kWeights, [&](json& header) {
    header["other"] = header[kQ];
    header.erase(kQ);
  });
  EXPECT_THAT(MessageOf(Load(renamed)), HasSubstr(kQ));
  const ModelDir transposed("tiny_llama");
  transposed.EditHeader(kWeights, [&](json& header) {
    json& shape = header[kQ]["shape"];
    shape = {shape[1], shape[0]};
  });
  ExpectRefused(transposed, kWeights, kQ);
}

TEST(DamagedDir, AConfigThatLeavesTensorsOutIsRefused) {
  const auto refuse = [](const char* golden, const char* key, const json& value,
                         const char* tensor) {
    const ModelDir dir(golden);
    dir.SetConfig(key, value);
    EXPECT_THAT(MessageOf(Load(dir)), HasSubstr(tensor)) << key;
  };
  refuse("tiny_llama", "num_hidden_layers", 1, "model.layers.1.");
  refuse("deepseek_v3_yarn", "num_hidden_layers", 2, "model.layers.3.");
  refuse("llama_biased", "attention_bias", false, "q_proj.bias");
  refuse("llama_biased", "mlp_bias", false, "gate_proj.bias");
  refuse("tiny_glm4_moe", "use_qk_norm", false, "q_norm.weight");
  refuse("tiny_glm4_moe", "n_shared_experts", 0, "shared_experts.gate_proj.weight");
  refuse("qwen3_yarn", "attention_bias", false, "q_proj.bias");
  refuse("qwen3_moe_sparse", "mlp_only_layers", {1}, "layers.1.mlp.gate_proj.weight");
  refuse("qwen3_moe_sparse", "decoder_sparse_step", 1, "layers.0.mlp.gate.weight");
}

TEST(DamagedDir, WeightsOfAnotherFamilyAreRefused) {
  const ModelDir dir("qwen3_yarn");
  dir.SetConfig("model_type", "llama");
  dir.SetConfig("architectures", {"LlamaForCausalLM"});
  dir.SetConfig("sliding_window", nullptr);
  EXPECT_THAT(MessageOf(Load(dir)), HasSubstr("q_norm.weight: is there, but"));
}

TEST(DamagedDir, UnsupportedDTypesAreNamed) {
  const ModelDir dir("llama_biased");
  for (const char* shard : {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                            "model-00003-of-00003.safetensors"}) {
    dir.EditHeader(shard, [&](json& header) {
      for (auto& [name, entry] : header.items()) {
        if (name != "__metadata__") entry["dtype"] = "I16";
      }
    });
  }
  EXPECT_THAT(MessageOf(Load(dir)), HasSubstr("I16"));
}

TEST(DamagedDir, IndexesAreChecked) {
  constexpr char kIndex[] = "model.safetensors.index.json";
  const std::vector<json> names = {"../model-00001-of-00003.safetensors",
                                   "/etc/passwd",
                                   "",
                                   "..",
                                   "a/b.safetensors",
                                   7,
                                   nullptr,
                                   "config.json",
                                   std::string("model\0.safetensors", 18)};
  for (const json& name : names) {
    const ModelDir dir("llama_biased");
    dir.EditJson(kIndex, [&](json& index) { index["weight_map"][kQ] = name; });
    ExpectRefused(dir, kIndex, kQ);
  }
  const ModelDir no_map("llama_biased");
  no_map.Write(kIndex, "{}");
  ExpectRefused(no_map, kIndex, "weight_map");
  const ModelDir wrong_shard("llama_biased");
  std::string other;
  wrong_shard.EditJson(kIndex, [&](json& index) {
    json& shard = index["weight_map"][kQ];
    other = shard == "model-00001-of-00003.safetensors" ? "model-00003-of-00003.safetensors"
                                                        : "model-00001-of-00003.safetensors";
    shard = other;
  });
  ExpectRefused(wrong_shard, other, kQ);
}

// Whatever bytes change, loading ends with a Status.
TEST(DamagedDir, RandomDamageNeverCrashes) {
  std::mt19937 random(20240607);
  const std::string header_file = ModelDir("tiny_llama").Read(kWeights);
  uint64_t header_size = 0;
  std::memcpy(&header_size, header_file.data(), 8);
  const std::string config = ModelDir("tiny_llama").Read("config.json");
  const ModelDir dir("tiny_llama");
  for (int i = 0; i < 400; ++i) {
    std::string bytes = i % 2 == 0 ? header_file : config;
    const size_t range = i % 2 == 0 ? 8 + header_size : config.size();
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      bytes[random() % range] =
          static_cast<char>(i % 4 < 2 ? random() % 256 : "0123456789-,:{}[]\"e."[random() % 20]);
    }
    dir.Write(i % 2 == 0 ? kWeights : "config.json", bytes);
    const Status status = Load(dir);
    EXPECT_TRUE(status.ok() || !status.message().empty());
    dir.Write(i % 2 == 0 ? kWeights : "config.json", i % 2 == 0 ? header_file : config);
  }
}

}  // namespace
}  // namespace choir
