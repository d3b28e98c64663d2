#include "worker/engine/exact_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/base/philox.h"
#include "worker/engine/exact_math_variant.h"

namespace choir {
namespace {

TEST(PhiloxTest, GivesTheKnownAnswersOfRandom123) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformsDifferBySeedChoiceAndPosition) {
  const double u = UniformFor(1, 0, 0);
  EXPECT_EQ(u, UniformFor(1, 0, 0));
  EXPECT_NE(u, UniformFor(2, 0, 0));
  EXPECT_NE(u, UniformFor(uint64_t{1} << 40, 0, 0));
  EXPECT_NE(u, UniformFor(1, 1, 0));
  EXPECT_NE(u, UniformFor(1, 0, 1));
  EXPECT_NE(u, UniformFor(1, 0, uint64_t{1} << 40));
}

TEST(PhiloxTest, UniformsLieEvenlyInTheUnitInterval) {
  std::vector<int> buckets(10);
  for (uint64_t i = 0; i < 100000; ++i) {
    const double u = UniformFor(7, 3, i);
    ASSERT_TRUE(u >= 0.0 && u < 1.0);
    ++buckets[static_cast<size_t>(u * 10)];
  }
  for (const int n : buckets) EXPECT_NEAR(n, 10000, 400);
}

TEST(ExactMathTest, ExpAgreesWithLibm) {
  std::mt19937_64 rng(1);
  std::uniform_real_distribution<double> any(-700.0, 0.0), small(-1.0, 0.0);
  for (int i = 0; i < 100000; ++i) {
    const double x = i % 2 == 0 ? any(rng) : small(rng);
    ASSERT_NEAR(ExactExp(x) / std::exp(x), 1.0, 1e-14) << x;
  }
  EXPECT_EQ(ExactExp(0.0), 1.0);
  EXPECT_EQ(ExactExp(-1e300), 0.0);
  EXPECT_EQ(ExactExp(-std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_EQ(ExactExp(std::numeric_limits<double>::quiet_NaN()), 0.0);
}

TEST(ExactMathTest, LogAgreesWithLibm) {
  std::mt19937_64 rng(2);
  std::uniform_real_distribution<double> exponent(-300.0, 300.0);
  for (int i = 0; i < 100000; ++i) {
    const double x = std::exp2(exponent(rng));
    ASSERT_NEAR(ExactLog(x), std::log(x), 1e-14 * std::abs(std::log(x)) + 1e-15) << x;
  }
  EXPECT_EQ(ExactLog(1.0), 0.0);
}

// Bits, not values: another compiler or flag that changes one of these changes what users get.
TEST(ExactMathTest, KeepsItsBits) {
  uint64_t digest = 0xcbf29ce484222325;
  const auto add = [&](double x) {
    digest = (digest ^ std::bit_cast<uint64_t>(x)) * 0x100000001b3;
  };
  for (int i = 0; i < 4096; ++i) {
    add(ExactExp(-0.17 * i));
    add(ExactLog(1.0 + 0.37 * i));
  }
  EXPECT_EQ(digest, 0xbebeae0d55b94fab);
}

TEST(ExactMathTest, TheVectorFormsAgreeWithTheScalarOnes) {
  std::vector<float> values;
  for (int i = 0; i < 1003; ++i) values.push_back(static_cast<float>(-0.037 * i));
  values[77] = std::numeric_limits<float>::quiet_NaN();
  values[78] = -std::numeric_limits<float>::infinity();
  std::vector<uint64_t> weights(values.size());
  ExactWeights(values, 0.0, 1.7, weights);
  double sum = 0.0;
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(weights[i], ExactWeight(static_cast<double>(values[i]) * 1.7)) << i;
    sum += ExactExp(values[i]);
  }
  std::vector<uint64_t> portable(values.size());
  PortableExactLoops().weights(values.data(), values.size(), 0.0, 1.7, portable.data());
  EXPECT_EQ(weights, portable);
  EXPECT_EQ(ExactExpSum(values, 0.0),
            PortableExactLoops().exp_sum(values.data(), values.size(), 0.0));
  EXPECT_EQ(weights[0], uint64_t{1} << 44);
  EXPECT_EQ(weights[77], 0u);
  EXPECT_EQ(weights[78], 0u);
  EXPECT_NEAR(ExactExpSum(values, 0.0), sum, 1e-12);
}

TEST(ExactMathTest, BestIndexIsTheFirstOfTheGreatest) {
  std::mt19937 rng(3);
  for (int i = 0; i < 2000; ++i) {
    std::vector<float> values(1 + rng() % 1200);
    for (float& v : values) v = static_cast<float>(rng() % 50) - 25.0f;
    if (i % 3 == 0) values[rng() % values.size()] = std::numeric_limits<float>::quiet_NaN();
    size_t expected = 0;
    float best = -std::numeric_limits<float>::infinity();
    for (size_t j = 0; j < values.size(); ++j) {
      if (values[j] > best) best = values[expected = j];
    }
    ASSERT_EQ(BestIndex(values), expected);
    ASSERT_EQ(PortableExactLoops().best(values.data(), values.size()), expected);
  }
}

}  // namespace
}  // namespace choir
