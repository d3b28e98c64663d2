// What the suites of GPU tables share.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/reference/gpu_ops.h"
#include "tests/contract/kernels/kernels_test.h"
#include "tests/support/gpu_emulation/emulated_stream.h"

namespace choir {

using emulation::Order;

class GpuOps : public testing::TestWithParam<std::string> {
 protected:
  template <class Property>
  void ForSeeds(uint32_t count, const Property& property) {
    count = GpuSeeds(count);
    for (uint32_t seed = 1; seed <= count && !HasFatalFailure(); ++seed) {
      SCOPED_TRACE("seed " + std::to_string(seed));
      Random random(seed);
      property(random);
    }
  }
  cuda::KernelStream Stream(Order order) {
    return {.native = emulation::StreamInOrder(order), .workspace = workspace_};
  }
  cuda::KernelStream Any(Random& random) { return Stream(kOrders[random.Int(0, 2)]); }

  static constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};
  const cuda::KernelTable& gpu_ = GpuTable(GetParam());
  std::shared_ptr<std::byte> memory_ = TestBytes(size_t{1} << 20);
  const std::span<std::byte> workspace_ = {memory_.get(), size_t{1} << 20};
};

inline void ExpectSameBytes(const Tensor& got, const Tensor& want, const char* what) {
  ASSERT_EQ(std::memcmp(got.view().raw(), want.view().raw(), want.view().num_bytes()), 0) << what;
}

struct Grouped {
  Tensor x, x_scale, w, w_scale;
  std::vector<int32_t> offsets = {0};
  int64_t outputs = 0, width = 0, rows = 0;
  bool f8 = false;

  GroupedGemmArgs Args(const Tensor& y) const {
    return {.x = x,
            .x_scale = f8 ? x_scale.view() : TensorView(),
            .w = w,
            .w_scale = f8 ? w_scale.view() : TensorView(),
            .y = y,
            .offsets = offsets};
  }
  // Copies: a row of its own begins where the copy engine can read it.
  Tensor Row(int64_t r) const { return RowOf(x, r); }
  Tensor RowScale(int64_t r) const { return f8 ? RowOf(x_scale, r) : Tensor(); }

 private:
  static Tensor RowOf(const Tensor& from, int64_t r) {
    const TensorView row = from.view().Rows(r, 1);
    Tensor copy(row.dtype(), {1, row.dim(1)});
    std::memcpy(copy.view().raw(), row.raw(), row.num_bytes());
    return copy;
  }
};

// Fills a case of known shape: outputs, width, rows and format.
inline void FillGrouped(Random& random, Grouped* filled) {
  Grouped& c = *filled;
  const int64_t experts = std::ssize(c.offsets) - 1;
  if (!c.f8) {
    c.x = random.Values(DType::kBF16, {c.rows, c.width});
    c.w = random.Values(DType::kBF16, {experts * c.outputs, c.width});
    return;
  }
  const int64_t across = (c.width + 127) / 128;
  c.x = random.Matrix(DType::kF8E4M3, c.rows, c.width).w;
  c.x_scale = random.Values(DType::kF32, {c.rows, across}, 1.0f / 448);
  c.w = random.Matrix(DType::kF8E4M3, experts * c.outputs, c.width).w;
  c.w_scale = random.Values(DType::kF32, {experts * ((c.outputs + 127) / 128), across}, 1.0f / 448);
}

// Runs `op` under every order of threads; all must leave the same bytes in the tensor it is given.
template <class Op>
void ExpectNoOrder(const Tensor& out, std::span<std::byte> workspace, const Op& op) {
  Tensor first;
  for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    const Tensor got = out.Clone();
    op(got, cuda::KernelStream{.native = emulation::StreamInOrder(order), .workspace = workspace});
    if (first.view().rank() == 0) {
      first = got;
    } else {
      ExpectSameBytes(got, first, "order");
    }
  }
}

// Products of at most 1, after both scales. Tensor cores add those of f8 with about 14 bits, of 128
// columns; the result may be rounded to bf16.
inline double GroupedBound(const std::string& kernels, const Grouped& c, DType dtype, double want) {
  const auto width = static_cast<double>(c.width);
  const double rounded = dtype == DType::kBF16 ? std::abs(want) / 128 + 1e-6 : 0.0;
  return DotBound(c.width, width) + rounded +
         (c.f8 && kernels == "gpu_hopper" ? width / 1024 : 0.0);
}

// Counts lie on the device; rows that are not there are neither read nor written.
inline void ExpectMasked(Random& random, const cuda::KernelTable& gpu,
                         const cuda::KernelStream& stream, const std::string& kernels) {
  Grouped c;
  const int64_t experts = random.Int(1, 4), rows_each = random.Int(1, 90);
  c.offsets.assign(static_cast<size_t>(experts) + 1, 0);
  c.rows = experts * rows_each;
  c.f8 = random.Coin();
  c.outputs = 2 * random.Int(1, 160);
  c.width = 16 * random.Int(1, 20);
  FillGrouped(random, &c);
  const Tensor counts(DType::kI32, {experts});
  for (int64_t e = 0; e < experts; ++e) {
    counts.view().data<int32_t>()[e] = static_cast<int32_t>(random.Int(0, rows_each));
  }
  const Tensor got(DType::kF32, {c.rows, c.outputs});
  std::fill_n(got.f32(), c.rows * c.outputs, 7.0f);
  const Tensor want = got.Clone();
  GroupedGemmArgs args = c.Args(got);
  args.offsets = {};
  args.counts = counts;
  args.rows_expected = random.Coin() ? rows_each : 0;
  gpu.grouped_gemm(args, stream);
  args.y = want;
  reference::GroupedGemm(args);
  for (int64_t i = 0; i < c.rows * c.outputs; ++i) {
    ASSERT_NEAR(got.at(i), want.at(i), GroupedBound(kernels, c, DType::kF32, want.at(i))) << i;
    if (want.at(i) == 7.0) {
      ASSERT_EQ(got.at(i), 7.0) << i;
    }
  }
}

}  // namespace choir
