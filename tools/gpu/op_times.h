// Times of every op in every table beside the limits of the card.
#pragma once

#include <nlohmann/json.hpp>

#include "common/base/clock.h"
#include "tools/gpu/bench_cases.h"
#include "tools/gpu/floor.h"
#include "tools/gpu/limits.h"

namespace choir::gpu {

struct OpTimesOptions {
  BenchShapes shapes;
  Limits limits;
  MonoTime deadline = MonoTime::max();  // cases after it are left out, and named
  // Called with all rows so far after each case: a kernel that breaks the device ends the process.
  std::function<void(const nlohmann::ordered_json& rows)> progress;
  int64_t simple_flops_max = 2'000'000'000'000;  // above, the plainest table is left out
};

// One entry a case and table that has a function of its own for it:
// {"table", "op", "shape", "us", "tflops", "gb_per_s", "copy_percent", "gemm_percent", "bound",
//  "floor_us", "floor_percent", "cublaslt_us", "figure"}; or {..., "left_out": why}.
nlohmann::ordered_json TimeOps(const std::vector<const cuda::KernelTable*>& tables,
                               const cuda::CublasLtTable& cublaslt, Card& card,
                               const OpTimesOptions& options);

}  // namespace choir::gpu
