#include "tools/gpu/limits.h"

#include <fmt/format.h>

#include <algorithm>

#include "tools/gpu/must.h"

namespace choir::gpu {
namespace {

using cuda::DenseFormat;
using cuda::DenseShape;

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int32_t kChoicesTimed = 4;

double CopyRate(Card& card, size_t bytes) {
  const auto side = static_cast<int64_t>(bytes);
  const TensorView from = card.Make(DType::kF8E4M3, {side}), to = card.Make(DType::kF8E4M3, {side});
  const double us = card.Time(
      [&] { Must(card.device().copy(to.raw(), from.raw(), bytes, card.stream()), "copy"); },
      "copy");
  card.FreeAll();
  return 2.0 * static_cast<double>(bytes) / us * 1e-3;
}

double Tflops(const DenseShape& s, double us) {
  return 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k) / us *
         1e-6;
}

// Room for four more scales each way: what cuBLASLt may round its strides up to.
TensorView BlockScales(Card& card, int64_t rows, int64_t columns) {
  return card.Make(DType::kF32, {rows + 4, columns + 4}, {.range = 0.004, .base = 0.005});
}

}  // namespace

const char* NameOf(DenseFormat format) {
  switch (format) {
    case DenseFormat::kBF16:
      return "bf16";
    case DenseFormat::kF8:
      return "f8";
    case DenseFormat::kF8Blocks:
      return "f8_blocks";
  }
  return "?";
}

DenseTimes::DenseTimes(const cuda::CublasLtTable& table, Card* card) : table_(table), card_(*card) {
  int32_t version = 0;
  if (table.open == nullptr) {
    missing_ = "this module has no cuBLASLt";
  } else if (const char* error = table.open(&version)) {
    missing_ = error;
  }
}

std::optional<double> DenseTimes::Of(const DenseShape& shape) {
  if (!missing_.empty()) return std::nullopt;
  const Key key{shape.m, shape.n, shape.k, shape.format};
  const auto known = known_.find(key);
  if (known != known_.end()) return known->second;
  return known_[key] = Measure(shape);
}

std::optional<double> DenseTimes::Measure(const DenseShape& s) {
  const DType dtype = s.format == DenseFormat::kBF16 ? DType::kBF16 : DType::kF8E4M3;
  const bool blocks = s.format == DenseFormat::kF8Blocks;
  const int64_t across = (s.k + 127) / 128;
  const cuda::DenseOperands operands{
      .x = card_.Make(dtype, {s.m, s.k}).raw(),
      .w = card_.Make(dtype, {s.n, s.k}).raw(),
      .y = card_.Make(DType::kBF16, {s.m, s.n}).raw(),
      .x_scale = blocks ? BlockScales(card_, across, s.m).f32() : nullptr,
      .w_scale = blocks ? BlockScales(card_, (s.n + 127) / 128, across).f32() : nullptr,
      .workspace = card_.Allocate(kWorkspaceBytes),
      .workspace_bytes = kWorkspaceBytes};
  void* plan = nullptr;
  int32_t choices = 0;
  if (table_.make(s, operands, &plan, &choices) != nullptr) return std::nullopt;
  std::optional<double> best;
  for (int32_t choice = 0; choice < std::min(choices, kChoicesTimed); ++choice) {
    const char* refused = nullptr;
    const double us = card_.Time(
        [&] {
          if (refused == nullptr) refused = table_.run(plan, choice, card_.stream());
        },
        "cuBLASLt");
    if (refused == nullptr) best = std::min(best.value_or(us), us);
  }
  table_.free(plan);
  return best;
}

nlohmann::ordered_json MeasureLimits(const cuda::CublasLtTable& table, Card& card,
                                     const LimitShapes& shapes, const LimitsProgress& progress) {
  nlohmann::ordered_json limits = {{"copy_gb_per_s", CopyRate(card, shapes.copy_bytes)}};
  const auto tell = [&] {
    if (progress) progress(limits);
  };
  tell();
  DenseTimes times(table, &card);
  if (!times.missing().empty()) {
    limits["missing"] = times.missing();
    tell();
    return limits;
  }
  auto products = shapes.products;
  for (const int64_t side : shapes.sides) products.insert(products.begin(), {side, side, side});
  limits["dense"] = nlohmann::ordered_json::array();
  for (const auto format : {DenseFormat::kBF16, DenseFormat::kF8, DenseFormat::kF8Blocks}) {
    const std::string rate = fmt::format("{}_tflops", NameOf(format));
    limits[rate] = 0.0;
    for (const auto& [m, n, k] : products) {
      const DenseShape shape{m, n, k, format};
      const std::optional<double> us = times.Of(shape);
      card.FreeAll();
      if (!us) continue;
      limits["dense"].push_back({{"format", NameOf(format)},
                                 {"m", m},
                                 {"n", n},
                                 {"k", k},
                                 {"us", *us},
                                 {"tflops", Tflops(shape, *us)}});
      limits[rate] = std::max(limits[rate].get<double>(), Tflops(shape, *us));
      tell();
    }
  }
  return limits;
}

Limits LimitsOf(const nlohmann::ordered_json& limits) {
  return {.copy_gbs = limits.value("copy_gb_per_s", 0.0),
          .bf16_tflops = limits.value("bf16_tflops", 0.0),
          .f8_tflops = limits.value("f8_tflops", 0.0)};
}

}  // namespace choir::gpu
