// The inner loops of one instruction-set path, as a table of plain functions: pointers and strides
// in, no team, no allocation. kernels/cpu/*.cc splits work over the team and calls these. A path's
// file is compiled with its own -m flags, so it includes only this header, <cstdint> and
// intrinsics, and keeps all its functions in an anonymous namespace: a shared inline function
// emitted there could be the copy that the linker keeps for everybody, and would crash an older
// CPU. All strides are in elements. Every output element is summed in an order fixed by its own
// width.
#pragma once

#include <cstdint>

namespace choir::cpu {

// How the elements of a matrix are stored. Blocks have scales: f8 (E4M3) one f32 for 128 x 128
// elements, f4 (E2M1, two in a byte) one power of two, 2^(s - 127), for 32 columns of a row.
enum Format : int { kFormatF32, kFormatBF16, kFormatF16, kFormatF8, kFormatF4, kFormats };
constexpr int kPlainFormats = 3;  // those without scales come first

// An element of kFormatF16; uint16_t is one of kFormatBF16.
struct Half {
  uint16_t bits;
};

// y[r, n] (+)= Σ_k x[r, k] · w[n, k]; lanes over k, one horizontal reduction.
struct DotTile {
  const void* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  const void* w = nullptr;
  int64_t w_stride = 0;
  int64_t outputs = 0;
  int64_t width = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  bool accumulate = false;
  bool prefetch = false;  // w is not in the cache, and what follows it in memory is needed next
  // For formats with scales:
  const void* scale = nullptr;  // of the whole matrix
  int64_t scale_stride = 0;     // elements of a row of scales
  int64_t w_row = 0;            // index of w's first row in that matrix
  void* unpacked = nullptr;     // room for four rows of f32, UnpackedStride(width) apart
};

// An odd number of cache lines of bf16 or f32, see Bf16Stride.
constexpr int64_t UnpackedStride(int64_t width) { return ((width + 31) / 32 | 1) * 32; }

// out[r, i] += Σ_j p[r, j] · v[j, i], j ascending; lanes over i.
struct WeightedTile {
  const float* p = nullptr;
  int64_t p_stride = 0;
  int64_t rows = 0;
  const void* v = nullptr;
  int64_t v_stride = 0;
  int64_t count = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  int64_t width = 0;
};

struct RmsRow {
  const float* x = nullptr;
  const void* w = nullptr;
  bool w_is_bf16 = false;
  float* y = nullptr;  // may be x
  int64_t width = 0;
  float eps = 0.0f;
};

// y = (clamp(up, ±limit) + 1) · g · sigmoid(alpha · g) with g = min(gate, limit); y may be gate.
struct ClampedGluRow {
  const float* gate = nullptr;
  const float* up = nullptr;
  float* y = nullptr;
  int64_t count = 0;
  float limit = 0.0f;
  float alpha = 0.0f;
};

struct Micro {
  const char* name;
  void (*dot[2][kFormats])(const DotTile&);              // [x is bf16][of w]
  void (*weighted[kPlainFormats])(const WeightedTile&);  // [of v]
  void (*rms)(const RmsRow&);
  void (*round_bf16)(const float* x, uint16_t* y, int64_t count);
  void (*swiglu)(const float* gate, const float* up, float* y, int64_t count);
  void (*swiglu_bf16)(const float* gate, const float* up, uint16_t* y, int64_t count);
  void (*clamped_glu)(const ClampedGluRow&);
  void (*sigmoid)(float* x, int64_t count);
  // s = exp(s·scale - max(s·scale, sink)) in place; returns 1 / (Σ s + exp(sink - max)).
  // `sink` may be null.
  float (*softmax)(float* s, int64_t count, float scale, const float* sink);
};

const Micro& PortableMicro();
#if defined(__x86_64__)
const Micro& Avx2Micro();
const Micro& Avx512Micro();
const Micro& Avx512Bf16Micro();
#endif

}  // namespace choir::cpu
