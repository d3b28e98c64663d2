#include "worker/model/weights/numerics_id.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "kernels/kernels.h"
#include "tests/support/model_dir.h"
#include "worker/model/model.h"

namespace choir {
namespace {

std::string IdOf(const ModelDir& dir, const std::string& dtype = "auto",
                 const std::string& cache_dir = "", int rank = 0, int num_ranks = 1) {
  const auto loaded = LoadModel({.model_dir = dir.path(),
                                 .dtype = dtype,
                                 .rank = rank,
                                 .num_ranks = num_ranks,
                                 .cache_dir = cache_dir},
                                *MakeReferenceKernels());
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return loaded.ok() ? (*loaded)->numerics_id() : "";
}

void FlipLastBit(const ModelDir& dir, const std::string& name) {
  std::string bytes = dir.Read(name);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  dir.Write(name, bytes);
}

TEST(NumericsId, IsTheSameForCopiesAndForAllRanks) {
  const ModelDir a("deepseek_v3_yarn"), b("deepseek_v3_yarn");
  EXPECT_EQ(IdOf(a), IdOf(b));
  EXPECT_EQ(IdOf(a), IdOf(a, "auto", "", 2, 3));
  EXPECT_EQ(IdOf(a).size(), 64u);
}

TEST(NumericsId, ChangesWithWhateverCanChangeABit) {
  const ModelDir plain("tiny_llama"), flipped("tiny_llama"), other_eps("tiny_llama");
  FlipLastBit(flipped, "model.safetensors");
  other_eps.SetConfig("rms_norm_eps", 1e-3);
  const std::set<std::string> ids = {IdOf(plain), IdOf(flipped), IdOf(other_eps),
                                     IdOf(plain, "bf16")};
  EXPECT_EQ(ids.size(), 4u);
  EXPECT_EQ(IdOf(plain), IdOf(plain, "f32"));  // auto of an f32 file
  const NumericsParts parts{
      .weights_digest = "d", .config_text = "{}", .dtype = "f32", .kernel_set = "a"};
  NumericsParts other = parts;
  other.kernel_set = "b";
  EXPECT_NE(NumericsId(parts), NumericsId(other));
}

TEST(NumericsId, ACacheGivesTheSameIdAndNoticesReplacedFiles) {
  const ModelDir dir("tiny_llama"), cache("");
  const std::string id = IdOf(dir);
  EXPECT_EQ(IdOf(dir, "auto", cache.path()), id);
  EXPECT_FALSE(std::filesystem::is_empty(cache.path()));
  for (const auto& entry : std::filesystem::directory_iterator(cache.path())) {
    EXPECT_EQ(entry.status().permissions(), std::filesystem::perms{0600}) << entry.path();
  }
  EXPECT_EQ(IdOf(dir, "auto", cache.path()), id);
  FlipLastBit(dir, "model.safetensors");
  std::filesystem::last_write_time(
      dir.File("model.safetensors"),
      std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_NE(IdOf(dir, "auto", cache.path()), id);
}

TEST(NumericsId, ADamagedOrUnwritableCacheOnlyCostsTime) {
  const ModelDir dir("tiny_llama"), cache("");
  const std::string id = IdOf(dir, "auto", cache.path());
  for (const auto& entry : std::filesystem::directory_iterator(cache.path())) {
    cache.Write(entry.path().filename(), "nonsense");
  }
  EXPECT_EQ(IdOf(dir, "auto", cache.path()), id);
  EXPECT_EQ(IdOf(dir, "auto", "/proc/nowhere"), id);
}

}  // namespace
}  // namespace choir
