// Non-owning view of a dense tensor: pointer, dtype, shape, row-major and contiguous unless a row
// stride is given. Header-only, abseil-free. Copy freely; the owner of the memory outlives it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "common/base/check.h"
#include "common/tensor/dtype.h"

namespace choir {

class TensorView {
 public:
  static constexpr int kMaxRank = 4;

  TensorView() = default;
  TensorView(void* data, DType dtype, std::initializer_list<int64_t> shape)
      : data_(data), dtype_(dtype), rank_(static_cast<int>(shape.size())) {
    CHOIR_CHECK(shape.size() <= kMaxRank);
    int i = 0;
    for (const int64_t d : shape) dims_[static_cast<size_t>(i++)] = d;
  }
  TensorView(const void* data, DType dtype, std::initializer_list<int64_t> shape)
      : TensorView(const_cast<void*>(data), dtype, shape) {}

  constexpr bool empty() const { return data_ == nullptr; }
  constexpr DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  constexpr int64_t dim(int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dim(i);
    return n;
  }
  size_t num_bytes() const { return static_cast<size_t>(BytesOf(dtype_, num_elements())); }

  constexpr void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    CHOIR_DCHECK(sizeof(T) == SizeOf(dtype_));
    return static_cast<T*>(data_);
  }
  float* f32() const { return data<float>(); }
  bf16* b16() const { return data<bf16>(); }

  // Rows [begin, begin + count) of the first dimension.
  TensorView Rows(int64_t begin, int64_t count) const {
    CHOIR_DCHECK(rank_ >= 1 && begin >= 0 && begin + count <= dim(0));
    TensorView v = *this;
    const int64_t row = dim(0) == 0 ? 0 : num_elements() / dim(0);
    v.data_ = static_cast<char*>(data_) + BytesOf(dtype_, begin * row);
    v.dims_[0] = count;
    return v;
  }

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_{};
};

}  // namespace choir
