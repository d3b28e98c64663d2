// How ops divide work and scratch memory: shared by the files of the CPU kernel set.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "common/base/check.h"
#include "common/tensor/tensor_view.h"
#include "kernels/cpu/micro.h"
#include "kernels/stream.h"

namespace choir::cpu {

constexpr int64_t kRoundedRows = 512;   // rows of x that are rounded to bf16 at a time
constexpr int64_t kAttentionRows = 16;  // query rows whose scores fit at the longest sequence
constexpr int64_t kExpertRows = 64;     // rows of an expert that share one pass over a weight block
constexpr int64_t kExpertBlock = 64;    // most rows of gate and up in one task
constexpr int64_t kPanelBytes = 128 * 1024;  // of weights that a task keeps in its L2 cache

// Below this much work, waking the team costs more than it saves.
constexpr int64_t kInlineNs = 4000;

inline int TeamSize(const Stream& stream) {
  return stream.team != nullptr ? stream.team->size() : 1;
}

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// The distance in bf16 elements at which rows of `width` are laid out in memory of ours: an odd
// number of cache lines. Rows a power of two apart would share one set of the L1 cache and evict
// each other.
inline int64_t Bf16Stride(int64_t width) { return (CeilDiv(width, 32) | 1) * 32; }

// Four rows of w, of f32.
constexpr int64_t UnpackedBytes(int64_t width) { return 4 * UnpackedStride(width) * 4; }

constexpr Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kFormatF32;
    case DType::kBF16:
      return kFormatBF16;
    case DType::kF16:
      return kFormatF16;
    case DType::kF8E4M3:
      return kFormatF8;
    case DType::kF4E2M1:
      return kFormatF4;
    default:
      return kFormats;
  }
}

// A matrix [rows, width] of weights with its scales, checked; gives its rows to tiles.
struct Matrix {
  Matrix(const TensorView& w, const TensorView& scales)
      : format(FormatOf(w.dtype())), rows(w.dim(0)), width(w.dim(1)), view(w), scale(scales) {
    CHOIR_CHECK(format != kFormats);
    if (format == kFormatF8) {
      CHOIR_CHECK(scales.dtype() == DType::kF32 && scales.dim(0) == CeilDiv(rows, 128) &&
                  scales.dim(1) == CeilDiv(width, 128));
    } else if (format == kFormatF4) {
      CHOIR_CHECK(scales.dtype() == DType::kU8 && scales.dim(0) == rows &&
                  scales.dim(1) * 32 == width);
    } else {
      CHOIR_CHECK(scales.empty());
    }
  }

  bool packed() const { return format >= kPlainFormats; }
  int64_t row_bytes() const { return BytesOf(view.dtype(), width); }
  const char* Row(int64_t row) const {
    return static_cast<const char*>(view.raw()) + row * row_bytes();
  }
  void Give(int64_t begin, int64_t count, DotTile* tile) const {
    tile->w = Row(begin);
    tile->w_stride = width;
    tile->outputs = count;
    tile->width = width;
    if (!packed()) return;
    tile->scale = scale.raw();
    tile->scale_stride = scale.dim(1);
    tile->w_row = begin;
  }

  Format format;
  int64_t rows;
  int64_t width;
  TensorView view, scale;
};

// A rough forecast: bytes at 16 per ns, multiply-adds at 64 per ns.
inline int64_t ForecastNs(int64_t bytes, int64_t multiply_adds) {
  return std::max(bytes / 16, multiply_adds / 64);
}

// fn(task, thread) for each task in [0, count); threads take the next task as they become free, so
// a thread that is held up does not hold up the op. Inline when all of it takes less than
// kInlineNs.
template <class Fn>
void ForTasks(const Stream& stream, int64_t count, int64_t total_ns, const Fn& fn) {
  if (count <= 1 || total_ns < kInlineNs || TeamSize(stream) == 1) {
    for (int64_t i = 0; i < count; ++i) fn(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  stream.team->Run([&](int thread) {
    while (true) {
      const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= count) return;
      fn(task, thread);
    }
  });
}

// fn(begin, end) over contiguous ranges of [0, count).
template <class Fn>
void ForRanges(const Stream& stream, int64_t count, int64_t ns_per_item, const Fn& fn) {
  if (count <= 0) return;
  if (TeamSize(stream) == 1 || count * ns_per_item < kInlineNs) {
    fn(int64_t{0}, count);
    return;
  }
  stream.team->For(count, std::max<int64_t>(1, kInlineNs / 2 / std::max<int64_t>(1, ns_per_item)),
                   fn);
}

// Rows of x rounded to bf16, laid out Bf16Stride apart.
inline void RoundRows(const Micro& micro, const float* x, int64_t width, int64_t rows,
                      bf16* rounded, const Stream& stream) {
  const int64_t stride = Bf16Stride(width);
  ForRanges(stream, rows, width / 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      micro.round_bf16(x + r * width, rounded + r * stride, width);
    }
  });
}

// y[0, count) += bias[begin, begin + count), f32 or bf16; an empty bias adds nothing.
inline void AddBias(const TensorView& bias, int64_t begin, int64_t count, float* y) {
  if (bias.empty()) return;
  if (bias.dtype() == DType::kBF16) {
    const bf16* b = bias.b16() + begin;
    for (int64_t n = 0; n < count; ++n) y[n] += ToF32(b[n]);
  } else {
    const float* b = bias.f32() + begin;
    for (int64_t n = 0; n < count; ++n) y[n] += b[n];
  }
}

// Hands out the stream's workspace, 64-byte aligned. One op uses it at a time.
class Scratch {
 public:
  explicit Scratch(const Stream& stream)
      : next_(stream.workspace.data()), left_(stream.workspace.size() / 64 * 64) {}

  size_t left() const { return left_; }

  template <class T>
  T* Take(int64_t count) {
    const size_t bytes = static_cast<size_t>(RoundUp(count * static_cast<int64_t>(sizeof(T)), 64));
    CHOIR_CHECK(bytes <= left_);
    T* result = reinterpret_cast<T*>(next_);
    next_ += bytes;
    left_ -= bytes;
    return result;
  }

 private:
  std::byte* next_;
  size_t left_;
};

// Bytes each thread needs in ExpertFfn: gate and up of one block.
constexpr int64_t kExpertThreadBytes = 2 * kExpertRows * kExpertBlock * 4;

}  // namespace choir::cpu
