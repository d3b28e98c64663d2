#include "worker/model/weights/quantized_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/tensor/small_floats.h"
#include "kernels/ops/linear.h"

namespace choir {
namespace {

// 6 · 2^(s - 127), the largest value of a block, is a number up to here.
constexpr uint8_t kExponentMax = 252;

int64_t Blocks(int64_t n) { return (n + kF8Block - 1) / kF8Block; }

float ScaleAt(const StoredTensor& t, int64_t i) {
  const std::byte* from = t.data() + BytesOf(*t.info.dtype, i);
  uint32_t bits = 0;
  std::memcpy(&bits, from, SizeOf(*t.info.dtype));
  if (t.info.dtype == DType::kF32) return std::bit_cast<float>(bits);
  const auto half = static_cast<uint16_t>(bits);
  return t.info.dtype == DType::kBF16 ? ToF32(half) : F16ToF32(half);
}

}  // namespace

// FP8 in a model that does not say so, or for a module that is said to be none.
bool QuantizedWeights::CheckMeant(const std::string& module) {
  const std::string name = module + ".weight";
  if (quant_.kind != QuantConfig::Kind::kFp8) {
    store_.Fail(name,
                "dtype: is F8_E4M3, but config.json has no quantization_config with quant_method "
                "fp8; config and weights are of different models");
  } else if (quant_.Keeps(module)) {
    store_.Fail(name,
                "dtype: is F8_E4M3, but config.json names it in modules_to_not_convert; config and "
                "weights are of different models");
  }
  return store_.status().ok();
}

// The scales of matrix `name`, every one a number of at least 0.
const StoredTensor* QuantizedWeights::F8Scale(const std::string& name, int64_t out, int64_t in) {
  const std::string scale = name + "_scale_inv";
  const StoredTensor* t =
      store_.Check(scale, {Blocks(out), Blocks(in)}, {DType::kF32, DType::kBF16, DType::kF16});
  if (t == nullptr) return nullptr;
  for (int64_t i = 0; i < Blocks(out) * Blocks(in); ++i) {
    const float value = ScaleAt(*t, i);
    if (std::isfinite(value) && value >= 0) continue;
    store_.Fail(scale, fmt::format("block [{}, {}]: {} is not a scale; the file is damaged, fetch "
                                   "it again",
                                   i / Blocks(in), i % Blocks(in), value));
    return nullptr;
  }
  return t;
}

ScaledMatrix QuantizedWeights::Matrix(const std::string& module, int64_t out, int64_t in,
                                      bool keep) {
  const std::string name = module + ".weight";
  const StoredTensor* stored = store_.files().Find(name);
  if (stored == nullptr || stored->info.dtype != DType::kF8E4M3) {
    if (store_.files().Find(name + "_scale_inv") != nullptr) {
      store_.Fail(name + "_scale_inv",
                  "is there, but its weight is not F8_E4M3; the file is damaged, fetch it again");
    }
    return {store_.Matrix(name, {out, in}, keep), {}};
  }
  const StoredTensor* t = store_.Check(name, {out, in}, {DType::kF8E4M3});
  if (t == nullptr || !CheckMeant(module)) return {};
  const StoredTensor* scale = F8Scale(name, out, in);
  if (scale == nullptr) return {};
  const TensorPart scales{
      .tensor = scale, .dtype = *scale->info.dtype, .rows = Blocks(out), .width = Blocks(in)};
  ScaledMatrix m;
  m.scale = store_.Keep(scales, DType::kF32, keep);
  if (m.scale.empty()) return {};
  m.w = store_.Keep({.tensor = t, .dtype = DType::kF8E4M3, .rows = out, .width = in},
                    DType::kF8E4M3, keep);
  return m;
}

TensorView QuantizedWeights::Multiplied(const std::string& module, int64_t out, int64_t in) {
  Matrix(module, out, in, /*keep=*/false);  // checks
  const StoredTensor* stored = store_.files().Find(module + ".weight");
  if (!store_.status().ok() || stored == nullptr) return {};
  if (stored->info.dtype != DType::kF8E4M3) return store_.Matrix(module + ".weight", {out, in});
  const StoredTensor* scale = store_.files().Find(module + ".weight_scale_inv");
  const TensorView scales = store_.Keep(
      {.tensor = scale, .dtype = *scale->info.dtype, .rows = Blocks(out), .width = Blocks(in)},
      DType::kF32);
  return store_.Keep({.tensor = stored,
                      .dtype = DType::kF8E4M3,
                      .rows = out,
                      .width = in,
                      .f8_scale = scales.empty() ? nullptr : scales.f32()},
                     store_.MatrixDType(DType::kF32));
}

bool QuantizedWeights::IsMxfp4(const Stacked& s) const {
  return store_.files().Find(s.name + "_blocks") != nullptr;
}

std::vector<ScaledMatrix> QuantizedWeights::Experts(const Stacked& s) {
  std::vector<ScaledMatrix> all(static_cast<size_t>(s.experts));
  if (!IsMxfp4(s)) {
    const StoredTensor* t =
        store_.Check(s.name, {s.experts, s.in, s.out}, {DType::kF32, DType::kBF16, DType::kF16});
    for (int64_t e = 0; t != nullptr && e < s.experts; ++e) {
      TensorPart part{.tensor = t, .dtype = *t->info.dtype, .rows = s.in, .width = s.out};
      part.first_byte = e * part.bytes();
      all[static_cast<size_t>(e)].w =
          store_.Keep(part, store_.MatrixDType(part.dtype), s.own.Has(e));
    }
    return all;
  }
  if (quant_.kind != QuantConfig::Kind::kMxfp4) {
    store_.Fail(s.name + "_blocks",
                "is there, but config.json has no quantization_config with quant_method mxfp4; "
                "config and weights are of different models");
  }
  const int64_t groups = s.in / kF4Block;
  const StoredTensor* blocks =
      store_.Check(s.name + "_blocks", {s.experts, s.out, groups, kF4Block / 2}, {DType::kU8});
  const StoredTensor* scales =
      store_.Check(s.name + "_scales", {s.experts, s.out, groups}, {DType::kU8});
  for (int64_t e = 0; blocks != nullptr && scales != nullptr && e < s.experts; ++e) {
    const int64_t count = s.out * groups;
    const auto* exponents = reinterpret_cast<const uint8_t*>(scales->data()) + e * count;
    if (s.own.Has(e) && *std::max_element(exponents, exponents + count) > kExponentMax) {
      store_.Fail(
          s.name + "_scales",
          fmt::format("expert {}: an exponent above {} (255 is NaN) is no scale; the file is "
                      "damaged, fetch it again",
                      e, kExponentMax));
      break;
    }
    TensorPart w{.tensor = blocks, .dtype = DType::kF4E2M1, .rows = s.out, .width = s.in};
    w.first_byte = e * w.bytes();
    const TensorPart scale{.tensor = scales,
                           .dtype = DType::kU8,
                           .rows = s.out,
                           .width = groups,
                           .first_byte = e * count};
    all[static_cast<size_t>(e)] = {store_.Keep(w, w.dtype, s.own.Has(e)),
                                   store_.Keep(scale, scale.dtype, s.own.Has(e))};
  }
  return all;
}

std::vector<TensorView> QuantizedWeights::ExpertBiases(const Stacked& s) {
  std::vector<TensorView> all(static_cast<size_t>(s.experts));
  const StoredTensor* t =
      store_.Check(s.name + "_bias", {s.experts, s.out}, {DType::kF32, DType::kBF16, DType::kF16});
  for (int64_t e = 0; t != nullptr && e < s.experts; ++e) {
    TensorPart part{.tensor = t, .dtype = *t->info.dtype, .rows = 1, .width = s.out};
    part.first_byte = e * part.bytes();
    const DType dtype = part.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
    const TensorView view = store_.Keep(part, dtype, s.own.Has(e));
    if (!view.empty()) all[static_cast<size_t>(e)] = TensorView(view.raw(), dtype, {s.out});
  }
  return all;
}

}  // namespace choir
