// What the contract files share: every kernel set this machine can run, random tensors, and the
// bounds that rounding allows.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace choir {

inline std::vector<std::string> AllKernelSets() {
  std::vector<std::string> names = CpuPaths();
  names.insert(names.begin(), "reference");
  return names;
}

inline std::unique_ptr<KernelSet> MakeKernels(const std::string& name) {
  if (name == "reference") return MakeReferenceKernels();
  return std::move(MakeCpuKernels(name)).value();
}

// A team and a workspace of exactly the size that the kernel set asks for.
class TestStream {
 public:
  TestStream(const KernelSet& kernels, const KernelLimits& limits, int threads)
      : team_(threads),
        bytes_(kernels.WorkspaceBytes(limits, threads)),
        memory_(new (std::align_val_t{64}) std::byte[bytes_ + 64]) {}
  ~TestStream() { ::operator delete[](memory_, std::align_val_t{64}); }
  TestStream(const TestStream&) = delete;
  TestStream& operator=(const TestStream&) = delete;

  Stream get() { return {.team = &team_, .workspace = {memory_, bytes_}}; }

 private:
  ThreadTeam team_;
  size_t bytes_;
  std::byte* memory_;
};

// An owned tensor with values in [-range, range].
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, std::initializer_list<int64_t> shape)
      : bytes_(std::make_shared<std::vector<std::byte>>()), view_(bytes_->data(), dtype, shape) {
    bytes_->resize(view_.num_bytes() + 64);
    view_ = TensorView(bytes_->data(), dtype, shape);
  }

  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }  // NOLINT: passed to ops by the dozen
  float* f32() const { return view_.f32(); }
  double at(int64_t i) const {
    return view_.dtype() == DType::kBF16 ? ToF32(view_.b16()[i]) : view_.f32()[i];
  }
  Tensor Clone() const {
    Tensor copy = *this;
    copy.bytes_ = std::make_shared<std::vector<std::byte>>(*bytes_);
    copy.view_ = ViewOf(copy.bytes_->data(), view_);
    return copy;
  }

 private:
  static TensorView ViewOf(void* data, const TensorView& like) {
    switch (like.rank()) {
      case 1:
        return TensorView(data, like.dtype(), {like.dim(0)});
      case 2:
        return TensorView(data, like.dtype(), {like.dim(0), like.dim(1)});
      default:
        return TensorView(data, like.dtype(), {like.dim(0), like.dim(1), like.dim(2)});
    }
  }

  std::shared_ptr<std::vector<std::byte>> bytes_;
  TensorView view_;
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  int64_t Int(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  bool Coin() { return Int(0, 1) == 1; }
  float Float(float range) { return std::uniform_real_distribution<float>(-range, range)(engine_); }
  DType WeightType() { return Coin() ? DType::kBF16 : DType::kF32; }
  Compute AnyCompute() { return Coin() ? Compute::kBF16 : Compute::kF32; }

  Tensor Values(DType dtype, std::initializer_list<int64_t> shape, float range = 1.0f) {
    Tensor t(dtype, shape);
    for (int64_t i = 0; i < t.view().num_elements(); ++i) {
      if (dtype == DType::kBF16) {
        t.view().b16()[i] = ToBF16(Float(range));
      } else {
        t.view().f32()[i] = Float(range);
      }
    }
    return t;
  }

 private:
  std::mt19937 engine_;
};

// Rounding of one f32 operation.
inline constexpr double kUnit = 1.0 / (1 << 24);

// A sum of n products, where the widest stride of lanes leaves at most n/4 additions in a row (the
// narrowest path has four lanes), each product and addition rounds once, and the lanes are folded
// in four more: |error| <= (n/4 + 8) · unit · Σ|products|, doubled for the product's own rounding.
inline double DotBound(int64_t n, double absolute_sum) {
  return 2.0 * (static_cast<double>(n) / 4 + 8) * kUnit * absolute_sum;
}

inline double Rounded(double x, Compute compute) {
  return compute == Compute::kBF16 ? ToF32(ToBF16(static_cast<float>(x))) : x;
}

inline void ExpectSameBits(const float* a, const float* b, int64_t count, const char* what) {
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << what << ", element " << i << ": " << a[i] << " and " << b[i];
  }
}

class KernelsTest : public testing::TestWithParam<std::string> {
 protected:
  // Runs `property(random)` for seeds 1..count; CHOIR_TEST_SEED replays one of them.
  template <class Property>
  void ForSeeds(uint32_t count, const Property& property) {
    const char* only = std::getenv("CHOIR_TEST_SEED");
    for (uint32_t seed = 1; seed <= count; ++seed) {
      if (only != nullptr && std::to_string(seed) != only) continue;
      SCOPED_TRACE("CHOIR_TEST_SEED=" + std::to_string(seed));
      Random random(seed);
      property(random);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
    }
  }

  Stream StreamOf(int threads) {
    auto& stream = streams_[static_cast<size_t>(threads)];
    if (stream == nullptr) stream = std::make_unique<TestStream>(*kernels_, kLimits, threads);
    return stream->get();
  }
  Stream Any(Random& random) { return StreamOf(static_cast<int>(random.Int(1, 5))); }

  static constexpr KernelLimits kLimits{
      .rows_max = 128, .columns_max = 2048, .positions_max = 512, .heads_max = 16};
  const std::unique_ptr<KernelSet> kernels_ = MakeKernels(GetParam());
  const std::unique_ptr<KernelSet> oracle_ = MakeReferenceKernels();
  std::unique_ptr<TestStream> streams_[6];
};

inline std::string NameOfParam(const testing::TestParamInfo<std::string>& info) {
  return info.param;
}

}  // namespace choir
