// The key at which a sum reaches what is wanted, against a sum in the order of a sort.
#include <algorithm>
#include <functional>

#include "kernels/cuda/tensor/sample_row.cuh"
#include "tests/contract/kernels/kernels_test.h"
#include "tests/support/gpu_emulation/emulated_block.h"

namespace choir {
namespace {

using cuda::SelectedKey;
using emulation::Order;

// As the threads of a block get it: all the same.
template <class Source>
SelectedKey Select(const Source& source, cuda::DigitRange range, uint64_t wanted, Order order) {
  SelectedKey selected;
  emulation::BlockScheduler(order).Run(
      {.threads = cuda::kSelectThreads, .shared_bytes = sizeof(cuda::SelectMemory)},
      [&](emulation::EmulatedBlock& block) {
        auto* memory = reinterpret_cast<cuda::SelectMemory*>(block.shared());
        const SelectedKey own = SelectKey(block, memory, source, range, [&](uint64_t total) {
          EXPECT_GT(total, 0u);
          return wanted;
        });
        if (block.thread() == 0) selected = own;
        block.Sync();
        EXPECT_EQ(own.key, selected.key);
        EXPECT_EQ(own.before, selected.before);
        EXPECT_EQ(own.there, selected.there);
      });
  return selected;
}

// Unique keys whose numbers are alike, or reach over all octaves.
std::vector<uint64_t> AnyKeys(Random& random, int64_t bits_most) {
  const int64_t bits = random.Int(1, bits_most);
  const bool octaves = random.Coin();
  std::vector<uint64_t> keys;
  for (int64_t id = 0, count = random.Int(1, 3000); id < count; ++id) {
    const int64_t shift = octaves ? random.Int(0, bits) : 0;
    keys.push_back(
        cuda::IdKey(static_cast<uint64_t>((random.Int(1, int64_t{1} << bits) >> shift) | 1), id));
  }
  std::shuffle(keys.begin(), keys.end(), std::mt19937(1));
  return keys;
}

cuda::KeyList ListOf(const std::vector<uint64_t>& keys) {
  return {keys.data(), static_cast<int32_t>(keys.size())};
}

template <class Source>
void ExpectTheKeyOfASort(Random& random, const Source& source, cuda::DigitRange range,
                         std::vector<uint64_t> keys,
                         const std::function<uint64_t(uint64_t)>& amount) {
  std::sort(keys.begin(), keys.end(), std::greater<>());
  uint64_t total = 0;
  for (const uint64_t key : keys) total += amount(key);
  // Often the very sum of some keys, or one more.
  uint64_t wanted = static_cast<uint64_t>(random.Int(1, static_cast<int64_t>(total)));
  uint64_t sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    sum += amount(keys[i]);
    if (sum < wanted) continue;
    if (random.Coin()) wanted = sum;
    last = i;
    break;
  }
  const SelectedKey got = Select(source, range, wanted, static_cast<Order>(random.Int(0, 2)));
  ASSERT_TRUE(got.there);
  EXPECT_EQ(got.total, total);
  EXPECT_LE(got.key, keys[last]);
  const uint64_t next = last + 1 < keys.size() ? keys[last + 1] : 0;
  EXPECT_GT(got.key, next);
  EXPECT_LT(got.before, wanted);
  EXPECT_GE(got.before, sum - amount(keys[last]));
  EXPECT_FALSE(Select(source, range, total + 1, Order::kForward).there);
}

TEST(DigitSelect, FindsTheKeyOfASort) {
  for (uint32_t seed = 1; seed <= GpuSeeds(30); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const std::vector<uint64_t> weights = AnyKeys(random, 44);
    ExpectTheKeyOfASort(random, cuda::ListWeights{ListOf(weights)}, cuda::DigitRange{}, weights,
                        [](uint64_t key) { return key >> cuda::kIdBits; });
    const std::vector<uint64_t> values = AnyKeys(random, 43);
    const uint64_t least = *std::min_element(values.begin(), values.end());
    ExpectTheKeyOfASort(random, cuda::ListValues{ListOf(values)}, {least, 63}, values,
                        [](uint64_t) { return uint64_t{1}; });
  }
}

}  // namespace
}  // namespace choir
