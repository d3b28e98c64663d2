#include "worker/kv/kv_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace choir {
namespace {

KvLayout MixedLayout() {
  KvLayout layout;
  layout.dtype = DType::kBF16;
  layout.layers = {{LayerKv::Kind::kKeysValues, 6, 10, 0},
                   {LayerKv::Kind::kLatent, 9, 0, 0},
                   {LayerKv::Kind::kKeysValues, 6, 10, 128}};
  return layout;
}

TEST(KvPoolTest, TurnsBytesIntoBlocks) {
  const KvLayout layout = MixedLayout();  // 41 elements of 2 bytes a token
  auto pool = KvPool::Make(layout, 82 * 8 * 5 + 100, 8);
  ASSERT_TRUE(pool.ok()) << pool.status();
  EXPECT_EQ((*pool)->num_blocks(), 5);
  ASSERT_EQ((*pool)->views().size(), 3u);
  EXPECT_EQ((*pool)->views()[0].k.width(), 6);
  EXPECT_EQ((*pool)->views()[0].v.width(), 10);
  EXPECT_EQ((*pool)->views()[0].k.block_tokens(), 8);
  EXPECT_EQ((*pool)->views()[0].k.data.dim(0), 5);
  EXPECT_TRUE((*pool)->views()[1].v.data.empty());
}

TEST(KvPoolTest, GivesEveryLayerMemoryOfItsOwn) {
  auto pool = KvPool::Make(MixedLayout(), 82 * 8 * 5, 8);
  ASSERT_TRUE(pool.ok());
  std::vector<TensorView> parts;
  for (const LayerKvView& v : (*pool)->views()) {
    parts.push_back(v.k.data);
    if (!v.v.data.empty()) parts.push_back(v.v.data);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    std::memset(parts[i].raw(), static_cast<int>(i + 1), parts[i].num_bytes());
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto* bytes = static_cast<const uint8_t*>(parts[i].raw());
    EXPECT_TRUE(
        std::all_of(bytes, bytes + parts[i].num_bytes(), [i](uint8_t b) { return b == i + 1; }));
  }
}

TEST(KvPoolTest, SaysHowManyBytesABlockTakes) {
  const auto pool = KvPool::Make(MixedLayout(), 100, 8);
  ASSERT_FALSE(pool.ok());
  EXPECT_NE(MessageOf(pool.status()).find("656 bytes"), std::string::npos) << pool.status();
}

TEST(KvPoolTest, RefusesOddLayouts) {
  EXPECT_FALSE(KvPool::Make(KvLayout{}, 1 << 20, 8).ok());
  EXPECT_FALSE(KvPool::Make(MixedLayout(), 1 << 20, 0).ok());
  KvLayout layout = MixedLayout();
  layout.layers[1].k_width = 0;
  EXPECT_FALSE(KvPool::Make(layout, 1 << 20, 8).ok());
}

TEST(KvPoolTest, ReservesFarMoreThanItTouches) {
  auto pool = KvPool::Make(MixedLayout(), uint64_t{64} << 30, 32);
  ASSERT_TRUE(pool.ok()) << pool.status();
  float zero = 1;
  std::memcpy(&zero, (*pool)->views().back().v.data.raw(), sizeof zero);
  EXPECT_EQ(zero, 0.0f);
}

}  // namespace
}  // namespace choir
