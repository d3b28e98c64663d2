// What a launch of attention on tensor cores is about: operands, which query rows and keys a block
// has, and how results of parts of the keys become one. Plan and reasons: attention.cuh.
#pragma once

#include "kernels/cuda/simple/attention.cuh"
#include "kernels/cuda/tensor/load8.cuh"

namespace choir::cuda {

inline constexpr int kTileKeys = 64;  // taken together: a block's step

// Keys or values of a layer, bf16. A KV head has `columns` of a token's `width`; both are multiples
// of 8, and data of 16 bytes.
struct AttendPool {
  const bf16* data = nullptr;
  int64_t width = 0;
  int32_t columns = 0;
};

// [T * heads, columns] f32, data of 16 bytes.
struct AttendQueries {
  const float* data = nullptr;
  int32_t columns = 0;

  CHOIR_DEVICE void Get(int32_t row, int64_t column, bf16 (&out)[8]) const {
    const auto* wide = reinterpret_cast<const Wide16*>(data + int64_t{row} * columns + column);
    const Wide16 halves[2] = {wide[0], wide[1]};
    CHOIR_UNROLL
    for (int i = 0; i < 8; ++i) {
      out[i] = ToBF16(std::bit_cast<float>(halves[i / 4].words[i % 4]));
    }
  }
};

struct AttendProblem {
  AttendQueries q;
  AttendQueries q_rope;  // MLA: the columns behind those of q; else none
  AttendPool k;
  AttendPool v;  // no data: the first v_columns of k
  float* out;    // [T * heads, v_columns]
  const float* sinks;
  PagedBatch batch;
  int32_t rows;  // of the launch
  int32_t v_columns;
  int32_t block_tokens, chunk, window;
  int32_t heads, kv_heads, group;  // group: heads that share a KV head
  // Of a tile, a block's share of queries: rows_here rows of heads_here heads each. A group has
  // head_tiles tiles.
  int32_t rows_here, heads_here, head_tiles;
  float scale;
};

// Tiles of sequence s begin at its first row / rows_here + s: a tile is of one sequence, and the
// number of all is bounded without a look at any. Some are empty.
inline int64_t TilesOf(const AttendProblem& a) {
  return (a.rows / a.rows_here + a.batch.num_sequences) * a.kv_heads * a.head_tiles;
}

// Where results of parts lie, by tile, part of this launch, and query: [v_columns] each, and their
// maximum and sum. No values: a block takes all parts of its tile, one after the other.
struct AttendParts {
  float* values = nullptr;
  float* folds = nullptr;   // maximum, sum
  float* states = nullptr;  // the same of what earlier launches folded, by tile and query
  int32_t begin = 0;        // first part of this launch, counted from the tile's first
  int32_t count = 0;
};

struct KeyRange {
  int32_t begin, end;
};

struct AttendTile {
  const int32_t* table;
  int32_t row0;  // in tensors
  int32_t rows;  // none: the tile is empty
  int32_t position0;
  int32_t head0, heads;
  int32_t kv_head;
  int32_t key_begin, key_end;  // seen by any of its rows

  CHOIR_DEVICE int32_t FirstChunk(int32_t chunk) const { return key_begin / chunk; }
  CHOIR_DEVICE int32_t Chunks(int32_t chunk) const {
    return (key_end - 1) / chunk - key_begin / chunk + 1;
  }
};

CHOIR_DEVICE int32_t KeyBegin(int32_t position, int32_t window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

CHOIR_DEVICE AttendTile FindTile(const AttendProblem& a, int64_t x) {
  const auto index = static_cast<int32_t>(x);
  const int32_t tile = index / (a.kv_heads * a.head_tiles);
  const int32_t rest = index % (a.kv_heads * a.head_tiles);
  const auto first_tile = [&](int64_t s) {
    const auto row = static_cast<int32_t>(a.batch.sequences[s].row_begin - a.batch.first_row);
    return row / a.rows_here + static_cast<int32_t>(s);
  };
  int64_t low = 0;
  int64_t high = a.batch.num_sequences;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (first_tile(middle) <= tile ? low : high) = middle;
  }
  const AttentionSequence& s = a.batch.sequences[low];
  const int32_t row = (tile - first_tile(low)) * a.rows_here;
  const int32_t left = s.row_count - row;
  const int32_t head0 = rest % a.head_tiles * a.heads_here;
  AttendTile t;
  t.table = s.block_table;
  t.row0 = s.row_begin + row;
  t.rows = left < a.rows_here ? (left > 0 ? left : 0) : a.rows_here;
  t.position0 = s.first_position + row;
  t.head0 = head0;
  t.heads = a.group - head0 < a.heads_here ? a.group - head0 : a.heads_here;
  t.kv_head = rest / a.head_tiles;
  t.key_begin = KeyBegin(t.position0, a.window);
  t.key_end = t.position0 + t.rows;
  return t;
}

// The keys that a block has of its tile: all, or those of part `y` of this launch; none where there
// is no such part.
CHOIR_DEVICE KeyRange KeysOf(const AttendProblem& a, const AttendParts& parts, const AttendTile& t,
                             int64_t y) {
  if (parts.values == nullptr) return {t.key_begin, t.key_end};
  const int32_t part = parts.begin + static_cast<int32_t>(y);
  if (part >= t.Chunks(a.chunk)) return {0, 0};
  const int32_t begin = (t.FirstChunk(a.chunk) + part) * a.chunk;
  const int32_t end = begin + a.chunk;
  return {t.key_begin < begin ? begin : t.key_begin, t.key_end > end ? end : t.key_end};
}

// Row and head of query i of a tile, as a row of q and out; -1: there is none.
CHOIR_DEVICE int32_t QueryRow(const AttendProblem& a, const AttendTile& t, int i) {
  const int32_t row = i / a.heads_here;
  const int32_t head = i % a.heads_here;
  if (row >= t.rows || head >= t.heads) return -1;
  return (t.row0 + row) * a.heads + t.kv_head * a.group + t.head0 + head;
}

// A softmax that has seen some keys: the largest score, the sum of exp(score - top).
struct Softmax {
  float top, sum;
};

// Before any key: a sink is a logit whose probability is dropped.
CHOIR_DEVICE Softmax SoftmaxBegin(const float* sinks, int32_t head) {
  if (sinks == nullptr) return {-kInfinity, 0.0f};
  return {sinks[head], 1.0f};
}

// How a part joins what was before it: result = earlier · keep + part · add.
struct Fold {
  Softmax all;
  float keep, add;
};

CHOIR_DEVICE Fold FoldOf(const Softmax& earlier, const Softmax& part) {
  if (part.top == -kInfinity) return {earlier, 1.0f, 0.0f};
  const float top = Max(part.top, earlier.top);
  const float keep = earlier.top == -kInfinity ? 0.0f : Exp(earlier.top - top);
  const float add = Exp(part.top - top);
  return {{top, Fma(earlier.sum, keep, part.sum * add)}, keep, add};
}

// A part that adds nothing leaves every bit as it was.
CHOIR_DEVICE float Folded(float earlier, float keep, float part, float add) {
  return add == 0.0f ? earlier : Fma(earlier, keep, part * add);
}

}  // namespace choir::cuda
