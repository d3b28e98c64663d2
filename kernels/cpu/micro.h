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
};

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

struct Micro {
  const char* name;
  void (*dot[2][2])(const DotTile&);         // [x is bf16][w is bf16]
  void (*weighted[2])(const WeightedTile&);  // [v is bf16]
  void (*rms)(const RmsRow&);
  void (*round_bf16)(const float* x, uint16_t* y, int64_t count);
  void (*swiglu)(const float* gate, const float* up, float* y, int64_t count);
  void (*swiglu_bf16)(const float* gate, const float* up, uint16_t* y, int64_t count);
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
