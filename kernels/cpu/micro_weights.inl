// How the rows of w are read in each format, widened and scaled. Part of micro_loops.inl. A format
// has Row (where a row begins), kBits (of an element) and kPacked: that reading is so dear that
// many rows of x share it by way of DotTile::unpacked.

template <class W>
struct PlainWeights {
  using Row = const W*;
  static constexpr int kBits = 8 * sizeof(W);
  static constexpr bool kPacked = false;
  static Row At(const DotTile& t, int64_t output) {
    return static_cast<const W*>(t.w) + output * t.w_stride;
  }
  static V::F Load(Row row, int64_t k) { return V::Load(row + k); }
  static V::F LoadTail(Row row, int64_t k, int64_t n) { return V::LoadTail(row + k, n); }
};

struct F8Weights {
  struct Row {
    const uint8_t* w;
    const float* scale;
  };
  static constexpr int kBits = 8;
  static constexpr bool kPacked = true;
  static Row At(const DotTile& t, int64_t output) {
    return {static_cast<const uint8_t*>(t.w) + output * t.w_stride,
            static_cast<const float*>(t.scale) + ((t.w_row + output) >> 7) * t.scale_stride};
  }
  static V::F Load(Row row, int64_t k) {
    return V::Mul(V::LoadF8(row.w + k), V::Set1(row.scale[k >> 7]));
  }
  static V::F LoadTail(Row row, int64_t k, int64_t n) {
    return V::Mul(V::LoadF8Tail(row.w + k, n), V::Set1(row.scale[k >> 7]));
  }
};

// 2^(s - 127); 255 is NaN.
struct ExponentTable {
  constexpr ExponentTable() {
    for (uint32_t s = 0; s < 256; ++s) {
      const uint32_t bits = s == 0 ? uint32_t{1} << 22 : s == 255 ? 0x7fc00000u : s << 23;
      value[s] = __builtin_bit_cast(float, bits);
    }
  }
  float value[256] = {};
};
constexpr ExponentTable kExponents;

struct F4Weights {
  struct Row {
    const uint8_t* w;
    const uint8_t* scale;
  };
  static constexpr int kBits = 4;
  static constexpr bool kPacked = true;
  static Row At(const DotTile& t, int64_t output) {
    return {static_cast<const uint8_t*>(t.w) + output * t.w_stride / 2,
            static_cast<const uint8_t*>(t.scale) + (t.w_row + output) * t.scale_stride};
  }
  static V::F Load(Row row, int64_t k) {
    return V::Mul(V::LoadF4(row.w + (k >> 1)), V::Set1(kExponents.value[row.scale[k >> 5]]));
  }
  // Rows are whole blocks of 32, so there is no tail.
  static V::F LoadTail(Row row, int64_t k, int64_t) { return Load(row, k); }
};

// How a dot product takes its operands: widened to f32, one FMA a step.
template <class X, class Weights>
struct Widened {
  using XType = X;
  using Operand = V::F;
  using Row = typename Weights::Row;
  using UnpackedType = float;
  using Unpacked = Widened<X, PlainWeights<float>>;
  static constexpr int64_t kStep = V::kLanes;
  static constexpr int kBits = Weights::kBits;
  static constexpr bool kPacked = Weights::kPacked;
  static Row RowAt(const DotTile& t, int64_t output) { return Weights::At(t, output); }
  static Operand Load(const X* p) { return V::Load(p); }
  static Operand LoadTail(const X* p, int64_t n) { return V::LoadTail(p, n); }
  static Operand LoadW(Row row, int64_t k) { return Weights::Load(row, k); }
  static Operand LoadWTail(Row row, int64_t k, int64_t n) { return Weights::LoadTail(row, k, n); }
  static V::F MulAdd(Operand x, Operand w, V::F sum) { return V::MulAdd(x, w, sum); }
  static void Unpack(float* to, Operand w, int64_t n) { V::StoreTail(to, w, n); }
};

// Four rows of w from `output` on as P takes them, UnpackedStride apart in t.unpacked. `ahead` as
// in DotBlock.
template <class P>
void UnpackRows(const DotTile& t, int64_t output, int64_t valid, const char* ahead) {
  constexpr int64_t kStepBits = P::kStep * P::kBits;
  for (int64_t n = 0; n < valid; ++n) {
    const typename P::Row row = P::RowAt(t, output + n);
    auto* to = static_cast<typename P::UnpackedType*>(t.unpacked) + n * UnpackedStride(t.width);
    for (int64_t k = 0; k < t.width; k += P::kStep) {
      if (ahead != nullptr && k * P::kBits % 512 < kStepBits) {
        __builtin_prefetch(ahead + k * P::kBits / 8, 0, 2);
      }
      const int64_t left = t.width - k;
      if (left < P::kStep) {
        P::Unpack(to + k, P::LoadWTail(row, k, left), left);
      } else {
        P::Unpack(to + k, P::LoadW(row, k), P::kStep);
      }
    }
    if (ahead != nullptr) ahead += t.w_stride * P::kBits / 8;
  }
}
