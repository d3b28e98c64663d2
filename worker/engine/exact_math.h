// exp and log in double that give the same bits on every machine: libm's differ among versions and
// among CPUs with and without FMA, and a sampled token must not depend on that. Error below 1e-14
// relative. No contraction is allowed where this is compiled (-ffp-contract=off,
// cmake/ChoirOptions.cmake).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/base/exact_exp.h"  // kWeightOne, and what weights are

namespace choir {

double ExactExp(double x);       // x <= 0; 0 below -700 and for NaN
double ExactLog(double x);       // x > 0, normal
uint64_t ExactWeight(double x);  // round(ExactExp(x) · 2^44)

// weights[i] = ExactWeight((values[i] - max) · scale), 0 for NaN. REQUIRES: same sizes.
void ExactWeights(std::span<const float> values, double max, double scale,
                  std::span<uint64_t> weights);

// Σ ExactExp(values[i] - max) in a fixed order, NaN counting 0.
double ExactExpSum(std::span<const float> values, double max);

// The first index of the greatest value; 0 when all are NaN or minus infinity.
size_t BestIndex(std::span<const float> values);

}  // namespace choir
