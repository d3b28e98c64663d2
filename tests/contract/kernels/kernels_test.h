// What the contract files share: every kernel set this machine can run, random tensors, and the
// bounds that rounding allows.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/tensor/small_floats.h"
#include "kernels/cuda/table_kernels.h"
#include "kernels/kernels.h"
#include "tests/support/gpu_emulation/gpu_tables.h"

namespace choir {

inline bool IsHopper(const std::string& name) { return name.find("hopper") != std::string::npos; }

// A copy where a device reads it, and nowhere else.
template <class T>
std::shared_ptr<const T> CopyForDevice(const std::vector<T>& values) {
  const std::shared_ptr<std::byte> memory = TestBytes(values.size() * sizeof(T) + 1);
  if (!values.empty()) std::memcpy(memory.get(), values.data(), values.size() * sizeof(T));
  return {memory, reinterpret_cast<const T*>(memory.get())};
}

// Tables of the second and third rung.
inline bool OnTensorCores(const std::string& name) {
  return name.find("tensor") != std::string::npos || IsHopper(name);
}

inline std::vector<std::string> TensorTableNames() {
  std::vector<std::string> names = GpuTableNames();
  std::erase_if(names, [](const std::string& name) { return !OnTensorCores(name); });
  return names;
}

inline std::vector<std::string> ProductKernelSets() {
  std::vector<std::string> names = CpuPaths();
  names.insert(names.begin(), "reference");
  const std::vector<std::string> gpu = GpuTableNames();
  names.insert(names.end(), gpu.begin(), gpu.end());
  return names;
}

// With the emulated Hopper rung, for what it has of its own.
inline std::vector<std::string> ProductKernelSetsAndHopper() {
  std::vector<std::string> names = ProductKernelSets();
  for (const std::string& name : HopperTableNames()) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

inline std::unique_ptr<KernelSet> MakeKernels(const std::string& name) {
  if (name == "reference") return MakeReferenceKernels();
  if (name.starts_with("gpu")) return MakeTableKernels(GpuTable(name));
  return std::move(MakeCpuKernels(name)).value();
}

// A team and a workspace of exactly the size that the kernel set asks for.
class TestStream {
 public:
  TestStream(const KernelSet& kernels, const KernelLimits& limits, int threads)
      : team_(threads),
        bytes_(kernels.WorkspaceBytes(limits, threads)),
        memory_(TestBytes(bytes_ + 64)) {}

  Stream get() { return {.team = &team_, .workspace = {memory_.get(), bytes_}}; }

 private:
  ThreadTeam team_;
  size_t bytes_;
  std::shared_ptr<std::byte> memory_;
};

// An owned tensor with values in [-range, range].
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, std::initializer_list<int64_t> shape)
      : view_(static_cast<void*>(nullptr), dtype, shape),
        bytes_(TestBytes(view_.num_bytes() + 64)) {
    view_ = TensorView(static_cast<void*>(bytes_.get()), dtype, shape);
  }

  const TensorView& view() const { return view_; }
  operator const TensorView&() const { return view_; }  // NOLINT: passed to ops by the dozen
  float* f32() const { return view_.f32(); }
  double at(int64_t i) const {
    if (view_.dtype() == DType::kBF16) return ToF32(view_.b16()[i]);
    if (view_.dtype() == DType::kF16) return F16ToF32(view_.data<uint16_t>()[i]);
    return view_.f32()[i];
  }
  Tensor Clone() const {
    Tensor copy = *this;
    copy.bytes_ = TestBytes(view_.num_bytes() + 64);
    std::memcpy(copy.bytes_.get(), bytes_.get(), view_.num_bytes());
    copy.view_ = ViewOf(copy.bytes_.get(), view_);
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

  TensorView view_;
  std::shared_ptr<std::byte> bytes_;
};

// A weight matrix with the scales that its format has.
struct Weights {
  Tensor w, scale;

  int64_t rows() const { return w.view().dim(0); }
  int64_t width() const { return w.view().dim(1); }
  bool scaled() const { return scale.view().rank() != 0; }
  TensorView scales() const { return scaled() ? scale.view() : TensorView(); }
  double at(int64_t row, int64_t column) const {
    const int64_t i = row * width() + column;
    const auto* bytes = static_cast<const uint8_t*>(w.view().raw());
    if (w.view().dtype() == DType::kF8E4M3) {
      const int64_t block = row / 128 * scale.view().dim(1) + column / 128;
      return static_cast<double>(F8ToF32(bytes[i])) * scale.f32()[block];
    }
    if (w.view().dtype() == DType::kF4E2M1) {
      const int code = i % 2 == 0 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4;
      const uint8_t s = scale.view().data<uint8_t>()[row * (width() / 32) + column / 32];
      return static_cast<double>(F4ToF32(static_cast<uint8_t>(code))) * std::ldexp(1.0, s - 127);
    }
    return w.at(i);
  }
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
  DType AnyFormat() {
    constexpr DType kAll[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3,
                              DType::kF4E2M1};
    return kAll[Int(0, 4)];
  }
  Compute AnyCompute() { return Coin() ? Compute::kBF16 : Compute::kF32; }

  Tensor Values(DType dtype, std::initializer_list<int64_t> shape, float range = 1.0f) {
    Tensor t(dtype, shape);
    for (int64_t i = 0; i < t.view().num_elements(); ++i) {
      if (dtype == DType::kBF16) {
        t.view().b16()[i] = ToBF16(Float(range));
      } else if (dtype == DType::kF16) {
        t.view().data<uint16_t>()[i] = ToF16(Float(range));
      } else {
        t.view().f32()[i] = Float(range);
      }
    }
    return t;
  }

  // Values in [-range, range] in any format; f4: width is a multiple of 32.
  Weights Matrix(DType dtype, int64_t rows, int64_t width, float range = 1.0f) {
    if (dtype == DType::kF8E4M3) {
      Weights m{Tensor(dtype, {rows, width}),
                Tensor(DType::kF32, {(rows + 127) / 128, (width + 127) / 128})};
      auto* bytes = static_cast<uint8_t*>(m.w.view().raw());
      for (int64_t i = 0; i < rows * width; ++i) {
        bytes[i] = ToF8(Float(Int(0, 7) == 0 ? 0.03f : 448.0f));  // some subnormal ones
      }
      for (int64_t i = 0; i < m.scale.view().num_elements(); ++i) {
        m.scale.f32()[i] = range / 448 * (0.55f + Float(0.45f));
      }
      return m;
    }
    if (dtype == DType::kF4E2M1) {
      Weights m{Tensor(dtype, {rows, width}), Tensor(DType::kU8, {rows, width / 32})};
      auto* bytes = static_cast<uint8_t*>(m.w.view().raw());
      for (int64_t i = 0; i < rows * width / 2; ++i) bytes[i] = static_cast<uint8_t>(Int(0, 255));
      const int top = 127 + static_cast<int>(std::floor(std::log2(range / 6)));
      for (int64_t i = 0; i < rows * width / 32; ++i) {
        m.scale.view().data<uint8_t>()[i] = static_cast<uint8_t>(top - Int(0, 3));
      }
      return m;
    }
    return {Values(dtype, {rows, width}, range), {}};
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

// What may be lost besides where scaled weights are rounded to bf16 (kernels/ops/linear.h).
inline double ScaledBound(const std::string& kernels, DType dtype, Compute compute,
                          double absolute_sum) {
  const bool rounds = kernels == "avx512bf16" && compute == Compute::kBF16;
  return rounds && dtype == DType::kF8E4M3 ? absolute_sum / 256 : 0.0;
}

inline void ExpectSameBits(const float* a, const float* b, int64_t count, const char* what) {
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << what << ", element " << i << ": " << a[i] << " and " << b[i];
  }
}

// Seeds of a property on an emulated GPU: CHOIR_TEST_GPU_SEEDS_MAX bounds them where each takes ten
// times as long, under sanitizers.
inline uint32_t GpuSeeds(uint32_t count) {
  const char* most = std::getenv("CHOIR_TEST_GPU_SEEDS_MAX");
  return most == nullptr ? count : std::min(count, static_cast<uint32_t>(std::atoi(most)));
}

class KernelsTest : public testing::TestWithParam<std::string> {
 protected:
  // Runs `property(random)` for seeds 1..count; CHOIR_TEST_SEED replays one of them.
  template <class Property>
  void ForSeeds(uint32_t count, const Property& property) {
    const char* only = std::getenv("CHOIR_TEST_SEED");
    if (GetParam().starts_with("gpu")) count = GpuSeeds(count);
    if (GetParam() == "gpu_hopper_emulated") count = std::min(count, 10u);  // large tiles
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
