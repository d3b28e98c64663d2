// The generic source of all paths. Included once by each path's .cc, inside its anonymous
// namespace, after `struct V` (the vector of the path) is defined there. V gives: F (a vector of
// kLanes floats), kDotRows and kWeightedRows (register tiles), Load/LoadTail from f32, bf16 and
// f16, LoadF8/LoadF8Tail and LoadF4 (without scales), Store/StoreTail to f32 and bf16, arithmetic,
// Reduce4 and Exp2 (2^n of whole n).

#include "kernels/cpu/micro_weights.inl"

constexpr int kDotOutputs = 4;
constexpr int64_t kDotRowBytes = 384 * 1024;  // of x that stay in the L2 cache while w passes by

// Cache lines of w that a step of a block of four rows reads.
template <class P>
constexpr int64_t kStepBytes = P::kStep* kDotOutputs* P::kBits / 8;
template <class P>
constexpr int kStepLines = static_cast<int>((kStepBytes<P> + 63) / 64);

// How far ahead, at least, to prefetch: memory's latency times the bandwidth of a core, and some
// more.
constexpr int64_t kAheadBytes = 12 * 1024;

// R rows of x against four rows of w. Rows of w past the end repeat the last one, not stored. Each
// step also prefetches kAhead lines of four rows further on into L2 (less is lost to waiting than
// with L1, whose miss buffers are few): one ascending stream from `ahead` on, whatever order the
// block itself reads in.
template <class P, int R, int kAhead>
void DotBlock(const DotTile& t, int64_t row, int64_t output, const char* ahead) {
  using X = typename P::XType;
  const X* x = static_cast<const X*>(t.x) + row * t.x_stride;
  typename P::Row w[kDotOutputs];
  const int64_t valid = t.outputs - output < kDotOutputs ? t.outputs - output : kDotOutputs;
  for (int n = 0; n < kDotOutputs; ++n) {
    w[n] = P::RowAt(t, output + (n < valid ? n : valid - 1));
  }
  typename V::F sum[R][kDotOutputs];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < kDotOutputs; ++n) sum[r][n] = V::Zero();
  }
  int64_t k = 0;
  for (; k + P::kStep <= t.width; k += P::kStep) {
#pragma GCC unroll 4
    for (int i = 0; i < kAhead; ++i) __builtin_prefetch(ahead + i * 64, 0, 2);
    ahead += kAhead * 64;
    typename P::Operand wv[kDotOutputs];
#pragma GCC unroll 4
    for (int n = 0; n < kDotOutputs; ++n) wv[n] = P::LoadW(w[n], k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename P::Operand xv = P::Load(x + r * t.x_stride + k);
#pragma GCC unroll 4
      for (int n = 0; n < kDotOutputs; ++n) sum[r][n] = P::MulAdd(xv, wv[n], sum[r][n]);
    }
  }
  if (k < t.width) {
    typename P::Operand wv[kDotOutputs];
#pragma GCC unroll 4
    for (int n = 0; n < kDotOutputs; ++n) wv[n] = P::LoadWTail(w[n], k, t.width - k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const typename P::Operand xv = P::LoadTail(x + r * t.x_stride + k, t.width - k);
#pragma GCC unroll 4
      for (int n = 0; n < kDotOutputs; ++n) sum[r][n] = P::MulAdd(xv, wv[n], sum[r][n]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float result[kDotOutputs];
    V::Reduce4(sum[r], result);
    float* y = t.y + (row + r) * t.y_stride + output;
    if (valid == kDotOutputs && !t.accumulate) {
      __builtin_memcpy(y, result, sizeof result);
      continue;
    }
    for (int n = 0; n < valid; ++n) y[n] = t.accumulate ? y[n] + result[n] : result[n];
  }
}

// Where a block lies: its tile among those that share four rows of w, and what to prefetch
// meanwhile.
struct TilePlace {
  int64_t index = 0;
  int64_t count = 0;
  const char* ahead = nullptr;
};

// The tiles that share four rows of w share the prefetching too: all of it at once would fill the
// miss buffers, and memory would idle during the other tiles.
template <class P, int R>
void DotRowsOf(const DotTile& t, int64_t row, int64_t output, TilePlace place) {
  constexpr int kAll = kStepLines<P>;
  constexpr int kHalf = kAll > 2 ? kAll / 2 : 1;
  const int64_t lines = place.index * (t.width / P::kStep);
  if (place.ahead == nullptr || place.index >= kAll) {
    DotBlock<P, R, 0>(t, row, output, nullptr);
  } else if (place.count == 1) {
    DotBlock<P, R, kAll>(t, row, output, place.ahead);
  } else if (place.count == 2) {
    DotBlock<P, R, kHalf>(t, row, output, place.ahead + lines * kHalf * 64);
  } else {
    DotBlock<P, R, 1>(t, row, output, place.ahead + lines * 64);
  }
}

template <class P>
void DotRows(const DotTile& t, int64_t row, int64_t count, int64_t output, TilePlace place) {
  switch (count) {
    case 1:
      return DotRowsOf<P, 1>(t, row, output, place);
    case 2:
      return DotRowsOf<P, 2>(t, row, output, place);
    default:
      if constexpr (V::kDotRows > 2) {
        switch (count) {
          case 3:
            return DotRowsOf<P, 3>(t, row, output, place);
          case 4:
            return DotRowsOf<P, 4>(t, row, output, place);
          case 5:
            return DotRowsOf<P, 5>(t, row, output, place);
          default:
            return DotRowsOf<P, 6>(t, row, output, place);
        }
      }
  }
}

// All tiles of four rows of w whose reading is dear: read once, into t.unpacked.
template <class P>
void DotUnpacked(const DotTile& t, int64_t begin, int64_t count, int64_t output, TilePlace place) {
  DotTile u = t;
  u.outputs = t.outputs - output < kDotOutputs ? t.outputs - output : kDotOutputs;
  UnpackRows<P>(t, output, u.outputs, place.ahead);
  u.w = t.unpacked;
  u.w_stride = UnpackedStride(t.width);
  u.y += output;
  for (int64_t i = 0; i < place.count; ++i) {
    const int64_t first = count * i / place.count;
    const int64_t last = count * (i + 1) / place.count;
    DotRows<typename P::Unpacked>(u, begin + first, last - first, 0, {i, place.count, nullptr});
  }
}

// Rows of x in blocks that stay in L2; for each, w once, four rows at a time, which stay in L1.
template <class P>
void Dot(const DotTile& t) {
  const int64_t row_bytes = t.width * static_cast<int64_t>(sizeof(typename P::XType)) + 1;
  const int64_t fit = kDotRowBytes / row_bytes / V::kDotRows * V::kDotRows;
  const int64_t block = fit > 4 * V::kDotRows ? fit : 4 * V::kDotRows;
  const int64_t w_bytes = t.w_stride * P::kBits / 8;
  const int64_t distance = (kAheadBytes / (kDotOutputs * w_bytes + 1) + 1) * kDotOutputs * w_bytes;
  for (int64_t begin = 0; begin < t.rows; begin += block) {
    const int64_t count = t.rows - begin < block ? t.rows - begin : block;
    const bool prefetch = t.prefetch && begin == 0;
    const int64_t tiles = (count + V::kDotRows - 1) / V::kDotRows;  // of nearly equal height
    for (int64_t output = 0; output < t.outputs; output += kDotOutputs) {
      const char* ahead = static_cast<const char*>(t.w) + output * w_bytes + distance;
      if constexpr (P::kPacked) {
        if (tiles > 1) {
          DotUnpacked<P>(t, begin, count, output, {0, tiles, prefetch ? ahead : nullptr});
          continue;
        }
      }
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t first = count * i / tiles;
        const int64_t last = count * (i + 1) / tiles;
        DotRows<P>(t, begin + first, last - first, output, {i, tiles, prefetch ? ahead : nullptr});
      }
    }
  }
}

// R rows, C vectors of columns (C == 1 may be a partial one of `lanes` columns).
template <class E, int R, int C>
void WeightedBlock(const WeightedTile& t, int64_t row, int64_t column, int64_t lanes) {
  const E* v = static_cast<const E*>(t.v) + column;
  const float* p = t.p + row * t.p_stride;
  float* out = t.out + row * t.out_stride + column;
  typename V::F sum[R][C];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const float* from = out + r * t.out_stride + c * V::kLanes;
      sum[r][c] = C == 1 ? V::LoadTail(from, lanes) : V::Load(from);
    }
  }
  for (int64_t j = 0; j < t.count; ++j, v += t.v_stride) {
    typename V::F vv[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      vv[c] = C == 1 ? V::LoadTail(v, lanes) : V::Load(v + c * V::kLanes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const typename V::F weight = V::Set1(p[r * t.p_stride + j]);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sum[r][c] = V::MulAdd(weight, vv[c], sum[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float* to = out + r * t.out_stride + c * V::kLanes;
      if (C == 1) {
        V::StoreTail(to, sum[r][c], lanes);
      } else {
        V::Store(to, sum[r][c]);
      }
    }
  }
}

template <class E, int R>
void WeightedRows(const WeightedTile& t, int64_t row) {
  constexpr int64_t kWide = 4 * V::kLanes;
  int64_t column = 0;
  for (; column + kWide <= t.width; column += kWide) WeightedBlock<E, R, 4>(t, row, column, kWide);
  for (; column < t.width; column += V::kLanes) {
    const int64_t left = t.width - column;
    WeightedBlock<E, R, 1>(t, row, column, left < V::kLanes ? left : V::kLanes);
  }
}

template <class E>
void Weighted(const WeightedTile& t) {
  for (int64_t row = 0; row < t.rows; row += V::kWeightedRows) {
    const int64_t left = t.rows - row;
    if (left == 1) {
      WeightedRows<E, 1>(t, row);
    } else if (left == 2 || V::kWeightedRows == 2) {
      WeightedRows<E, 2>(t, row);
    } else if (left == 3) {
      WeightedRows<E, 3>(t, row);
    } else {
      WeightedRows<E, 4>(t, row);
    }
  }
}

float Sum(typename V::F v) {
  const typename V::F four[kDotOutputs] = {v, v, v, v};
  float sums[kDotOutputs];
  V::Reduce4(four, sums);
  return sums[0];
}

// e^x within 2 ulp: x = n·ln2 + r, |r| <= ln2/2, Taylor's series of e^r to r^7/7! (rest < 6e-9).
// Clamped to where the result is a normal number; NaN stays NaN.
typename V::F Exp(typename V::F x) {
  x = V::Max(V::Set1(-87.0f), V::Min(V::Set1(88.0f), x));
  const typename V::F n = V::Round(V::Mul(x, V::Set1(1.44269504088896341f)));
  // ln2 in two parts: the first has few bits, so that n times it is exact.
  typename V::F r = V::MulAdd(n, V::Set1(-0.693359375f), x);
  r = V::MulAdd(n, V::Set1(2.12194440054690583e-4f), r);
  typename V::F e = V::Set1(1.0f / 5040);
  e = V::MulAdd(e, r, V::Set1(1.0f / 720));
  e = V::MulAdd(e, r, V::Set1(1.0f / 120));
  e = V::MulAdd(e, r, V::Set1(1.0f / 24));
  e = V::MulAdd(e, r, V::Set1(1.0f / 6));
  e = V::MulAdd(e, r, V::Set1(0.5f));
  e = V::MulAdd(e, r, V::Set1(1.0f));
  e = V::MulAdd(e, r, V::Set1(1.0f));
  return V::Mul(e, V::Exp2(n));
}

typename V::F SigmoidOf(typename V::F x) {
  const typename V::F one = V::Set1(1.0f);
  return V::Div(one, V::Add(one, Exp(V::Sub(V::Zero(), x))));
}

// fn(i, lanes) for each vector of [0, count).
template <class Fn>
void ForVectors(int64_t count, Fn fn) {
  for (int64_t i = 0; i < count; i += V::kLanes) {
    fn(i, count - i < V::kLanes ? count - i : static_cast<int64_t>(V::kLanes));
  }
}

template <class W>
void RmsOf(const RmsRow& a) {
  typename V::F squares = V::Zero();
  ForVectors(a.width, [&](int64_t i, int64_t n) {
    const typename V::F x = V::LoadTail(a.x + i, n);
    squares = V::MulAdd(x, x, squares);
  });
  const float mean = Sum(squares) / static_cast<float>(a.width);
  const typename V::F inverse = V::Set1(1.0f / __builtin_sqrtf(mean + a.eps));
  const W* w = static_cast<const W*>(a.w);
  ForVectors(a.width, [&](int64_t i, int64_t n) {
    const typename V::F x = V::Mul(V::LoadTail(a.x + i, n), inverse);
    V::StoreTail(a.y + i, V::Mul(x, V::LoadTail(w + i, n)), n);
  });
}

void Rms(const RmsRow& a) { a.w_is_bf16 ? RmsOf<uint16_t>(a) : RmsOf<float>(a); }

void RoundRow(const float* x, uint16_t* y, int64_t count) {
  ForVectors(count, [&](int64_t i, int64_t n) { V::StoreTail(y + i, V::LoadTail(x + i, n), n); });
}

template <class Y>
void SwiGluRow(const float* gate, const float* up, Y* y, int64_t count) {
  ForVectors(count, [&](int64_t i, int64_t n) {
    const typename V::F g = V::LoadTail(gate + i, n);
    V::StoreTail(y + i, V::Mul(V::Mul(g, SigmoidOf(g)), V::LoadTail(up + i, n)), n);
  });
}

void ClampedGlu(const ClampedGluRow& a) {
  const typename V::F top = V::Set1(a.limit);
  ForVectors(a.count, [&](int64_t i, int64_t n) {
    const typename V::F g = V::Min(top, V::LoadTail(a.gate + i, n));
    const typename V::F u = V::Max(V::Set1(-a.limit), V::Min(top, V::LoadTail(a.up + i, n)));
    const typename V::F swish = V::Mul(g, SigmoidOf(V::Mul(V::Set1(a.alpha), g)));
    V::StoreTail(a.y + i, V::Mul(V::Add(u, V::Set1(1.0f)), swish), n);
  });
}

void SigmoidRow(float* x, int64_t count) {
  ForVectors(count, [&](int64_t i, int64_t n) {
    V::StoreTail(x + i, SigmoidOf(V::LoadTail(x + i, n)), n);
  });
}

float SoftmaxRow(float* s, int64_t count, float scale, const float* sink) {
  const typename V::F scales = V::Set1(scale);
  float top = sink != nullptr ? *sink : s[0] * scale;
  typename V::F tops = V::Set1(top);
  for (int64_t i = 0; i < count; i += V::kLanes) {
    if (count - i < V::kLanes) {
      for (int64_t j = i; j < count; ++j) {
        s[j] *= scale;
        top = s[j] > top ? s[j] : top;
      }
    } else {
      const typename V::F v = V::Mul(V::Load(s + i), scales);
      V::Store(s + i, v);
      tops = V::Max(tops, v);
    }
  }
  float lanes[V::kLanes];
  V::Store(lanes, tops);
  for (const float lane : lanes) top = lane > top ? lane : top;
  typename V::F sums = V::Zero();
  ForVectors(count, [&](int64_t i, int64_t n) {
    V::StoreTail(s + i, Exp(V::Sub(V::LoadTail(s + i, n), V::Set1(top))), n);
    sums = V::Add(sums, V::LoadTail(s + i, n));  // lanes past the end add 0
  });
  float sum = Sum(sums);
  if (sink != nullptr) {
    V::Store(lanes, Exp(V::Set1(*sink - top)));
    sum += lanes[0];
  }
  return 1.0f / sum;
}

constexpr Micro MicroOf(const char* name) {
  using Bf16 = uint16_t;
  return Micro{
      .name = name,
      .dot = {{Dot<Widened<float, PlainWeights<float>>>, Dot<Widened<float, PlainWeights<Bf16>>>,
               Dot<Widened<float, PlainWeights<Half>>>, Dot<Widened<float, F8Weights>>,
               Dot<Widened<float, F4Weights>>},
              {Dot<Widened<Bf16, PlainWeights<float>>>, Dot<Widened<Bf16, PlainWeights<Bf16>>>,
               Dot<Widened<Bf16, PlainWeights<Half>>>, Dot<Widened<Bf16, F8Weights>>,
               Dot<Widened<Bf16, F4Weights>>}},
      .weighted = {Weighted<float>, Weighted<Bf16>, Weighted<Half>},
      .rms = Rms,
      .round_bf16 = RoundRow,
      .swiglu = SwiGluRow<float>,
      .swiglu_bf16 = SwiGluRow<Bf16>,
      .clamped_glu = ClampedGlu,
      .sigmoid = SigmoidRow,
      .softmax = SoftmaxRow,
  };
}
