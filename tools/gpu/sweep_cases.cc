#include "tools/gpu/sweep_cases.h"

#include <cstring>

#include "common/tensor/small_floats.h"

namespace choir::gpu {

Draw::Values Draw::Make(DType dtype, std::initializer_list<int64_t> shape, float range,
                        float base) {
  const TensorView like(static_cast<void*>(nullptr), dtype, shape);
  Values made{TensorView(card_.Allocate(like.num_bytes()), dtype, shape), {}};
  std::vector<std::byte> bytes(like.num_bytes());
  const int64_t count = dtype == DType::kF4E2M1 ? 0 : like.num_elements();
  for (int64_t i = 0; i < count; ++i) {
    float value = base + Float(range);
    if (dtype == DType::kF8E4M3) {
      const auto code = static_cast<uint8_t>(Int(0, 126) | (Coin() ? 128 : 0));
      value = F8ToF32(code);
      bytes[static_cast<size_t>(i)] = static_cast<std::byte>(code);
    } else if (dtype == DType::kBF16) {
      const bf16 half = ToBF16(value);
      value = ToF32(half);
      std::memcpy(bytes.data() + 2 * i, &half, sizeof half);
    } else if (dtype == DType::kF16) {
      const uint16_t half = ToF16(value);
      value = F16ToF32(half);
      std::memcpy(bytes.data() + 2 * i, &half, sizeof half);
    } else if (dtype == DType::kU8) {  // scales of f4
      bytes[static_cast<size_t>(i)] = static_cast<std::byte>(Int(121, 124));
      value = 0;
    } else {
      std::memcpy(bytes.data() + 4 * i, &value, sizeof value);
    }
    made.f32.push_back(value);
  }
  if (dtype == DType::kF4E2M1) {
    for (std::byte& pair : bytes) pair = static_cast<std::byte>(Int(0, 255));
  }
  card_.Upload(made.view, bytes.data());
  return made;
}

TensorView Draw::I32(std::initializer_list<int64_t> shape, std::span<const int32_t> values) {
  const TensorView like(static_cast<void*>(nullptr), DType::kI32, shape);
  const TensorView made(card_.Allocate(like.num_bytes()), DType::kI32, shape);
  card_.Upload(made, values.data());
  return made;
}

TensorView Draw::Space(DType dtype, std::initializer_list<int64_t> shape) {
  const TensorView like(static_cast<void*>(nullptr), dtype, shape);
  return TensorView(card_.Allocate(like.num_bytes()), dtype, shape);
}

std::vector<SweepOp> SweepOps() {
  std::vector<SweepOp> ops = SweepProducts();
  for (const auto& more : {SweepExperts(), SweepRows(), SweepAttention()}) {
    ops.insert(ops.end(), more.begin(), more.end());
  }
  return ops;
}

}  // namespace choir::gpu
