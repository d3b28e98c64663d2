// expert_ffn on Hopper: shapes, bound and plan of both products stand in product.cuh.
// Covers   Compute::kBF16 with weights in bf16, or in f8 with scales: for rows in f8 both products
//          are of f8 by f8, for others weights are widened to bf16 in registers: exact, as on the
//          tensor rung. H and F multiples of 64 (bf16) or 128 (f8), rows of x at multiples of 16
//          bytes. The rest is left to the tensor rung.
// Plan     rows become bf16 first (in y's memory, which is written last); gate and up of 64 outputs
//          are the two waves of a warpgroup, so glu happens in registers; its results go as bf16
//          into the scratch. Rows in f8 are read where they lie; glu's results go to the scratch in
//          FP32, where a kernel of its own makes them f8 (f8_rows.cuh): a scale is of 128 outputs,
//          and a warpgroup has 64. Maps of the matrices are kernel parameters, up to 64 experts a
//          launch: nothing is uploaded but offsets, so a graph can hold such a launch.
// Oracle   the simple kernels and kernels/reference, under tests/contract/kernels.
#pragma once

#include "kernels/cuda/hopper/grouped_gemm.cuh"
#include "kernels/cuda/rounded_rows.cuh"

namespace choir::cuda {

inline constexpr int kExpertsOfLaunch = 64;

// Rows as a product reads them.
struct ProductRows {
  const void* data;
  DType dtype;
  int64_t pitch;                 // bytes
  const float* scale = nullptr;  // f8: rows scale_pitch floats apart
  int64_t scale_pitch = 0;
};

// One of the two products, of matrices `outputs` x `width`.
struct ExpertProduct {
  const ExpertFfnArgs& args;
  ProductRows x;
  const int32_t* offsets;
  int64_t outputs, width;
};

template <int kMatrices>
bool MakeOperand(const ExpertProduct& p, const ExpertWeights& w, const auto& run,
                 ExpertOperand<kMatrices>* to) {
  const TensorView* matrices[] = {kMatrices == 1 ? &w.down : &w.gate, &w.up};
  const TensorView* scales[] = {kMatrices == 1 ? &w.down_scale : &w.gate_scale, &w.up_scale};
  const bool fused = kMatrices == 2 && w.up.empty();
  const TensorView& bias = kMatrices == 1 ? w.down_bias : w.gate_bias;
  to->bias = {bias.raw(), bias.dtype()};
  for (int i = 0; i < kMatrices; ++i) {
    const TensorView& matrix = *matrices[fused ? 0 : i];
    const TensorView& scale = *scales[fused ? 0 : i];
    MapShape shape = RowsMap(matrix.raw(), matrix.dtype(), p.outputs, p.width, kWaveOutputs);
    if (fused) {  // rows in turn
      shape.data = static_cast<const std::byte*>(shape.data) + i * shape.pitch;
      shape.pitch *= 2;
    }
    to->scale[i] = scale.empty() ? nullptr : scale.f32();
    if (!run.MakeMap(shape, &to->map[i])) return false;
  }
  return true;
}

template <Form kForm, int kRows, int kMatrices, class Epilogue, class Runner>
void LaunchExperts(const ExpertProduct& p, const Epilogue& epilogue, const Runner& run) {
  using Weights = WeightSide<kMatrices, kExpertsOfLaunch>;
  const auto& experts = p.args.experts;
  const int64_t rows = p.args.x.dim(0);
  const MapShape x{p.x.data, p.x.dtype, rows, p.width, p.x.pitch, kRows};
  for (size_t first = 0; first < experts.size(); first += kExpertsOfLaunch) {
    const size_t count = std::min<size_t>(kExpertsOfLaunch, experts.size() - first);
    ProductKernel<kForm, kRows, Weights, Epilogue> kernel{};
    for (size_t e = 0; e < count; ++e) {
      if (!MakeOperand<kMatrices>(p, experts[first + e], run, &kernel.weights.of[e])) return;
    }
    const bool fused = kMatrices == 2 && experts[0].up.empty();
    kernel.x_scale = p.x.scale;
    kernel.x_scale_pitch = p.x.scale_pitch;
    kernel.weights.scale_width = static_cast<int32_t>(CeilDiv(p.width, kF8Side));
    kernel.weights.scale_side = static_cast<int32_t>(fused ? kF8Side / 2 : kF8Side);
    kernel.groups.offsets = p.offsets + first;
    kernel.groups.experts = static_cast<int32_t>(count);
    kernel.weights.outputs = static_cast<int32_t>(p.outputs);
    kernel.width = static_cast<int32_t>(p.width);
    kernel.epilogue = epilogue;
    LaunchProduct(run, x, rows, kernel);
  }
}

template <Form kForm, int kRows, class Runner>
void RunExperts(const ExpertFfnArgs& a, const int32_t* offsets, const Runner& run) {
  constexpr bool kWide = kForm == Form::kF8Wide;
  const int64_t hidden = a.x.dim(1);
  const int64_t inner = a.scratch.dim(1);
  auto* rounded = reinterpret_cast<bf16*>(a.y.raw());
  const RowOrder order = OrderFor(a.experts[0].gate.dtype());
  const bool as_it_is = a.x.dtype() == DType::kBF16 && a.x_order == order;
  if (!as_it_is) {
    CHOIR_CHECK(a.x_order == RowOrder::kPlain);
    RoundRows(run, {a.x.raw(), a.x.dtype()}, hidden, a.x.dim(0), hidden, {rounded, hidden, order});
  }
  auto* scratch = reinterpret_cast<bf16*>(a.scratch.raw());
  const ProductRows x{as_it_is ? a.x.b16() : rounded, DType::kBF16, 2 * hidden};
  const ExpertProduct up{a, x, offsets, inner, hidden};
  const StoreGlu glu{scratch, static_cast<int32_t>(inner), a.glu, kWide};
  LaunchExperts<kForm, kRows, 2>(up, glu, run);
  const ExpertProduct down{a, {scratch, DType::kBF16, 2 * inner}, offsets, hidden, inner};
  const StoreOutputs store{a.y.raw(), DType::kF32, static_cast<int32_t>(hidden)};
  LaunchExperts<kForm, kRows, 1>(down, store, run);
}

// The rows before *count, which only the device may know, a block each.
struct RowsBelow {
  const int32_t* count;

  template <class Block>
  CHOIR_DEVICE int64_t Of(const Block& block) const {
    return block.x() < *count ? block.x() : -1;
  }
};

template <int kRows, class Runner>
void RunExpertsInF8(const ExpertFfnArgs& a, const int32_t* offsets, const Runner& run) {
  const int64_t hidden = a.x.dim(1);
  const int64_t inner = a.scratch.dim(1);
  float* scratch = a.scratch.f32();
  const ProductRows x{a.x.raw(), DType::kF8E4M3, a.x_pitch(), a.x_scale.f32(), a.x_scale_pitch()};
  const StoreGluF32 glu{scratch, static_cast<int32_t>(inner), a.glu};
  LaunchExperts<Form::kF8, kRows, 2>(ExpertProduct{a, x, offsets, inner, hidden}, glu, run);
  PackF8(run, {.x = a.x.dim(0)}, RowsBelow{offsets + a.experts.size()}, scratch, inner);
  const ProductRows h{scratch, DType::kF8E4M3, 4 * inner, scratch + inner / 4, inner};
  const StoreOutputs store{a.y.raw(), DType::kF32, static_cast<int32_t>(hidden)};
  LaunchExperts<Form::kF8, kRows, 1>(ExpertProduct{a, h, offsets, hidden, inner}, store, run);
}

inline bool IsCovered(const ExpertFfnArgs& a) {
  if (a.experts.size() == 0 || a.input_major || a.compute != Compute::kBF16) return false;
  const DType dtype = a.experts[0].gate.dtype();
  if (dtype != DType::kBF16 && dtype != DType::kF8E4M3) return false;
  const int64_t unit = dtype == DType::kBF16 ? 64 : 128;
  const auto x = reinterpret_cast<uintptr_t>(a.x.raw());
  const auto y = reinterpret_cast<uintptr_t>(a.y.raw());
  const auto scratch = reinterpret_cast<uintptr_t>(a.scratch.raw());
  if (a.x.dim(1) % unit != 0 || a.scratch.dim(1) % unit != 0) return false;
  if (x % 16 != 0 || y % 16 != 0 || scratch % 16 != 0) return false;
  if (a.has_f8_rows()) {
    if (dtype != DType::kF8E4M3 || a.x_pitch() % 16 != 0) return false;
  } else if (x < y + a.y.num_bytes() && y < x + a.x.num_bytes()) {
    return false;  // y is used before
  }
  for (size_t e = 0; e < a.experts.size(); ++e) {
    const ExpertWeights& w = a.experts[e];
    for (const TensorView* m : {&w.gate, &w.up, &w.down}) {
      if (reinterpret_cast<uintptr_t>(m->raw()) % 16 != 0) return false;
    }
  }
  return true;
}

// False: its shapes are not covered, and nothing was done.
template <class Runner>
bool HopperExpertFfn(const ExpertFfnArgs& a, const Runner& run) {
  if (!IsCovered(a)) return false;
  CheckExpertFfn(a);
  const int64_t rows = a.x.dim(0);
  if (rows == 0) return true;
  Upload<Runner> upload(run);
  const int32_t* offsets = upload(a.offsets);
  const bool few = rows <= kFewRows * static_cast<int64_t>(a.experts.size());
  if (a.has_f8_rows() && few) {
    RunExpertsInF8<kFewRows>(a, offsets, run);
  } else if (a.has_f8_rows()) {
    RunExpertsInF8<kManyRows>(a, offsets, run);
  } else if (a.experts[0].gate.dtype() == DType::kF8E4M3) {
    RunExperts<Form::kF8Wide, kFewRows>(a, offsets, run);
  } else if (few) {
    RunExperts<Form::kBF16, kFewRows>(a, offsets, run);
  } else {
    RunExperts<Form::kBF16, kManyRows>(a, offsets, run);
  }
  return true;
}

}  // namespace choir::cuda
