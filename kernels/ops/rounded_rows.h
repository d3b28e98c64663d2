// Rows that are rounded to bf16 by whoever makes them, for the products that take them: an op less
// ahead of each product. The order of their columns is the kernel set's own and follows from the
// weights (KernelSet::OrderOfRows); a product that wants another one, or none, takes x as it is.
#pragma once

#include <cstdint>

namespace choir {

enum class RowOrder : uint8_t {
  kNone,   // rows in f32
  kPlain,  // column k at k
  kForF8,  // as weights in f8 are widened (kernels/cuda/rounded_rows.cuh)
};

// Memory of the device, at multiples of 16 bytes; rows as in the tensor that stands beside it.
struct RoundedRows {
  uint16_t* data = nullptr;  // bf16
  int64_t pitch = 0;         // elements between rows, a multiple of 8
  RowOrder order = RowOrder::kNone;

  bool empty() const { return order == RowOrder::kNone; }
};

}  // namespace choir
