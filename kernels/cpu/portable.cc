// The path for any CPU: GCC's generic vectors of four floats, which every target has or splits.
#include <cstdint>

#include "kernels/cpu/micro.h"

namespace choir::cpu {
namespace {

struct F8Table {
  constexpr F8Table() {
    for (uint32_t b = 0; b < 256; ++b) {
      // 2^120: from E4M3's exponents to f32's, right for subnormal ones too.
      const float scaled = __builtin_bit_cast(float, (b & 0x7fu) << 20) * 1.329227995784916e36f;
      const float size = (b & 0x7fu) == 0x7fu ? __builtin_nanf("") : scaled;
      value[b] = b < 128 ? size : -size;
    }
  }
  float value[256] = {};
};
constexpr F8Table kF8;
constexpr float kF4[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                           -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

struct V {
  using F = float __attribute__((vector_size(16)));
  using I = int32_t __attribute__((vector_size(16)));
  using U = uint32_t __attribute__((vector_size(16)));
  using H = uint16_t __attribute__((vector_size(8)));
  static constexpr int kLanes = 4;
  static constexpr int kDotRows = 2;
  static constexpr int kWeightedRows = 2;

  static F Zero() { return F{}; }
  static F Set1(float x) { return F{x, x, x, x}; }
  static F Load(const float* p) {
    F v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static F Load(const uint16_t* p) {
    H h;
    __builtin_memcpy(&h, p, sizeof h);
    return reinterpret_cast<F>(__builtin_convertvector(h, U) << 16);
  }
  static F Load(const Half* p) {
    H h;
    __builtin_memcpy(&h, p, sizeof h);
    const U u = __builtin_convertvector(h, U);
    const U magnitude = (u & 0x7fffu) << 13;
    // 2^112: from f16's exponents to f32's, right for subnormal ones too.
    const F finite = reinterpret_cast<F>(magnitude) * 5.192296858534828e33f;
    const U special = reinterpret_cast<U>((u & 0x7c00u) == 0x7c00u);
    const U bits = (reinterpret_cast<U>(finite) & ~special) |
                   ((magnitude | 0x7f800000u) & special) | ((u & 0x8000u) << 16);
    return reinterpret_cast<F>(bits);
  }
  static F LoadF8(const uint8_t* p) {
    return F{kF8.value[p[0]], kF8.value[p[1]], kF8.value[p[2]], kF8.value[p[3]]};
  }
  static F LoadF8Tail(const uint8_t* p, int64_t n) {
    F v{};
    for (int64_t i = 0; i < n; ++i) v[i] = kF8.value[p[i]];
    return v;
  }
  static F LoadF4(const uint8_t* p) {
    return F{kF4[p[0] & 15], kF4[p[0] >> 4], kF4[p[1] & 15], kF4[p[1] >> 4]};
  }
  template <class T>
  static F LoadTail(const T* p, int64_t n) {
    if (n == kLanes) return Load(p);
    T padded[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
    return Load(padded);
  }
  static void Store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
  static void Store(uint16_t* p, F v) {
    const U u = reinterpret_cast<U>(v);
    const U even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const U nan = (u >> 16) | 0x40u;
    const U is_nan = reinterpret_cast<U>((u & 0x7fffffffu) > 0x7f800000u);
    const H h = __builtin_convertvector((even & ~is_nan) | (nan & is_nan), H);
    __builtin_memcpy(p, &h, sizeof h);
  }
  template <class T>
  static void StoreTail(T* p, F v, int64_t n) {
    if (n == kLanes) return Store(p, v);
    T padded[kLanes];
    Store(padded, v);
    for (int64_t i = 0; i < n; ++i) p[i] = padded[i];
  }
  static F Add(F a, F b) { return a + b; }
  static F Sub(F a, F b) { return a - b; }
  static F Mul(F a, F b) { return a * b; }
  static F Div(F a, F b) { return a / b; }
  static F MulAdd(F a, F b, F c) { return a * b + c; }
  // The second operand where they do not compare, so that NaN in `b` survives.
  static F Max(F a, F b) { return a > b ? a : b; }
  static F Min(F a, F b) { return a < b ? a : b; }
  // To nearest by the magic number 1.5 * 2^23; |x| is small here.
  static F Round(F x) { return (x + 12582912.0f) - 12582912.0f; }
  static F Exp2(F n) {
    const I whole = __builtin_convertvector(n, I);
    return reinterpret_cast<F>((whole + 127) << 23);
  }
  static void Reduce4(const F (&v)[4], float (&out)[4]) {
    for (int i = 0; i < 4; ++i) out[i] = (v[i][0] + v[i][2]) + (v[i][1] + v[i][3]);
  }
};

#include "kernels/cpu/micro_loops.inl"

constexpr Micro kMicro = MicroOf("portable");

}  // namespace

const Micro& PortableMicro() { return kMicro; }

}  // namespace choir::cpu
