// ExpertFfn: all experts of a layer as one list of tasks, twice: gate and up, then down.
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/work.h"

namespace choir::cpu {
namespace {

// Most columns of an input-major matrix in one task: 16 rows of them stay in L1.
constexpr int64_t kColumnsMax = 1024;

// Rows [begin, begin + count) of the batch, all of one expert.
struct Segment {
  size_t expert = 0;
  int64_t begin = 0;
  int64_t count = 0;
};

// Rows of a weight matrix a task takes: of a size that streams well, and enough tasks for the team.
int64_t BlockOf(int64_t matrix_rows, int64_t row_bytes, int64_t segments, int threads) {
  const int64_t fitting = std::max<int64_t>(4, kPanelBytes / 2 / row_bytes / 4 * 4);
  const int64_t blocks_wanted = CeilDiv(4 * threads, segments);
  const int64_t even = RoundUp(CeilDiv(matrix_rows, blocks_wanted), 4);
  return std::min({kExpertBlock, fitting, even});
}

// The same of columns of an input-major matrix, whose rows stream the better the longer the piece
// that a task takes of each: at most `most`.
int64_t ColumnsOf(int64_t matrix_columns, int64_t segments, int threads, int64_t most) {
  const int64_t blocks_wanted = CeilDiv(4 * threads, segments);
  return std::min(most, RoundUp(CeilDiv(matrix_columns, blocks_wanted), kExpertBlock));
}

// What both products of a call have in common.
struct Shape {
  explicit Shape(const ExpertFfnArgs& a)
      : hidden(a.x.dim(1)),
        inner(a.scratch.dim(1)),
        fused(a.experts.front().up.empty()),
        input_major(a.input_major),
        format(FormatOf(a.experts.front().gate.dtype())),
        round(a.compute == Compute::kBF16) {
    CHOIR_CHECK(fused || !input_major);
    CHOIR_CHECK(!input_major || format < kPlainFormats);
    const int64_t gate_rows = fused ? 2 * inner : inner;
    for (const ExpertWeights& w : a.experts) {
      Check(w.gate, w.gate_scale, gate_rows, hidden);
      Check(w.down, w.down_scale, hidden, inner);
      if (!fused) Check(w.up, w.up_scale, inner, hidden);
      CHOIR_CHECK(w.gate_bias.empty() || (fused && w.gate_bias.dim(0) == gate_rows));
      CHOIR_CHECK(w.down_bias.empty() || w.down_bias.dim(0) == hidden);
    }
  }
  int64_t RowBytes(int64_t width) const {
    constexpr int64_t kBits[kFormats] = {32, 16, 16, 8, 4};
    return width * kBits[format] / 8;
  }

  int64_t hidden, inner;
  bool fused;
  bool input_major;
  Format format;
  bool round;  // x to bf16

 private:
  void Check(const TensorView& w, const TensorView& scale, int64_t out, int64_t in) const {
    CHOIR_CHECK(FormatOf(w.dtype()) == format);
    CHOIR_CHECK(w.dim(0) == (input_major ? in : out) && w.dim(1) == (input_major ? out : in));
    if (format >= kPlainFormats) (void)Matrix(w, scale);
  }
};

class Ffn {
 public:
  Ffn(const Micro& micro, const ExpertFfnArgs& args, const Stream& stream)
      : micro_(micro), a_(args), shape_(args), stream_(stream), scratch_(stream) {
    gate_up_ = scratch_.Take<float>(TeamSize(stream) * kExpertThreadBytes / 4);
    unpacked_floats_ = UnpackedBytes(std::max(shape_.hidden, shape_.inner)) / 4;
    if (shape_.format >= kPlainFormats) {
      unpacked_ = scratch_.Take<float>(TeamSize(stream) * unpacked_floats_);
    }
    // Input-major weights go by Micro::weighted, which takes rows of f32, rounded or not.
    bf16_rows_ = shape_.round && !shape_.input_major;
    // The f32 scratch holds what glu gave as bf16 in half its bytes: room to set rows apart.
    inner_stride_ =
        bf16_rows_ ? std::min(Bf16Stride(shape_.inner), 2 * shape_.inner) : shape_.inner;
    x_stride_ = shape_.hidden;
    // Rows that are bf16 already are used where they lie, unless they would share sets of the L1
    // cache.
    const bool copies_x = shape_.round && (shape_.input_major || a_.x.dtype() == DType::kF32 ||
                                           shape_.hidden % 2048 == 0);
    rows_max_ = a_.x.dim(0);
    if (copies_x) {
      if (bf16_rows_) x_stride_ = Bf16Stride(shape_.hidden);
      const int64_t row_bytes = RoundUp(x_stride_ * (bf16_rows_ ? 2 : 4), 64);
      rows_max_ = std::min(rows_max_, static_cast<int64_t>(scratch_.left()) / row_bytes);
      CHOIR_CHECK(rows_max_ > 0);
      laid_out_ = scratch_.Take<std::byte>(rows_max_ * row_bytes);
    }
  }

  // Batches of at most rows_max_ rows; one expert's rows are cut only if they alone are more.
  void Run() {
    std::vector<Segment> batch;
    int64_t rows = 0;
    for (size_t e = 0; e < a_.experts.size(); ++e) {
      for (int64_t begin = a_.offsets[e]; begin < a_.offsets[e + 1];) {
        if (rows == rows_max_) {
          RunBatch(batch);
          batch.clear();
          rows = 0;
        }
        const int64_t count = std::min<int64_t>(a_.offsets[e + 1] - begin, rows_max_ - rows);
        batch.push_back({e, begin, count});
        rows += count;
        begin += count;
      }
    }
    if (rows > 0) RunBatch(batch);
  }

 private:
  void RunBatch(const std::vector<Segment>& batch) {
    first_row_ = batch.front().begin;
    const int64_t rows = batch.back().begin + batch.back().count - first_row_;
    const int64_t segments = static_cast<int64_t>(batch.size());
    if (laid_out_ != nullptr) LayOutX(rows);
    const int64_t matrix = shape_.hidden * shape_.inner;
    const int threads = TeamSize(stream_);
    const bool columns = shape_.input_major;
    inner_block_ = columns
                       ? ColumnsOf(shape_.inner, segments, threads, WideBlock(batch))
                       : BlockOf(shape_.inner, shape_.RowBytes(shape_.hidden), segments, threads);
    const int64_t inner_blocks = CeilDiv(shape_.inner, inner_block_);
    const int64_t ns = ForecastNs(segments * shape_.RowBytes(matrix), rows * matrix);
    ForTasks(stream_, segments * inner_blocks, 2 * ns, [&](int64_t task, int thread) {
      GateUp(batch[static_cast<size_t>(task / inner_blocks)], task % inner_blocks * inner_block_,
             thread);
    });
    const int64_t block =
        columns ? ColumnsOf(shape_.hidden, segments, threads, kColumnsMax)
                : BlockOf(shape_.hidden, shape_.RowBytes(shape_.inner), segments, threads);
    const int64_t blocks = CeilDiv(shape_.hidden, block);
    ForTasks(stream_, segments * blocks, ns, [&](int64_t task, int thread) {
      Down(batch[static_cast<size_t>(task / blocks)], task % blocks * block, block, thread);
    });
  }

  // As many columns as the memory for gate and up of a task's rows allows.
  static int64_t WideBlock(const std::vector<Segment>& batch) {
    int64_t rows = 1;
    for (const Segment& s : batch) rows = std::max(rows, std::min(kExpertRows, s.count));
    return std::min(kColumnsMax, kExpertRows * kExpertBlock / rows / kExpertBlock * kExpertBlock);
  }

  // x of the batch's `rows` rows, as bf16 (or f32 of bf16's values) x_stride_ apart.
  void LayOutX(int64_t rows) const {
    const int64_t hidden = shape_.hidden;
    ForRanges(stream_, rows, hidden / 8, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t from = (first_row_ + r) * hidden;
        if (!bf16_rows_) {
          float* to = reinterpret_cast<float*>(laid_out_) + r * x_stride_;
          if (a_.x.dtype() == DType::kF32) {
            RoundInPlace(a_.x.f32() + from, hidden, to);
          } else {
            for (int64_t i = 0; i < hidden; ++i) to[i] = ToF32(a_.x.b16()[from + i]);
          }
          continue;
        }
        bf16* to = reinterpret_cast<bf16*>(laid_out_) + r * x_stride_;
        if (a_.x.dtype() == DType::kF32) {
          micro_.round_bf16(a_.x.f32() + from, to, hidden);
        } else {
          std::copy_n(a_.x.b16() + from, hidden, to);
        }
      }
    });
  }

  // to = x with the precision of bf16; may be x.
  void RoundInPlace(const float* x, int64_t count, float* to) const {
    constexpr int64_t kBlock = 256;
    bf16 rounded[kBlock];
    for (int64_t i = 0; i < count; i += kBlock) {
      const int64_t n = std::min(kBlock, count - i);
      micro_.round_bf16(x + i, rounded, n);
      for (int64_t j = 0; j < n; ++j) to[i + j] = ToF32(rounded[j]);
    }
  }

  const void* X(int64_t row) const {
    if (laid_out_ != nullptr) {
      return laid_out_ + (row - first_row_) * x_stride_ * (bf16_rows_ ? 2 : 4);
    }
    return static_cast<const char*>(a_.x.raw()) +
           row * shape_.hidden * static_cast<int64_t>(SizeOf(a_.x.dtype()));
  }

  // tile.y (rows, y_stride and x given) = x · rows [begin, begin + count) of w.
  void Product(const TensorView& w, const TensorView& scale, int64_t begin, int64_t count,
               DotTile tile, int thread) const {
    if (!shape_.input_major) {
      Matrix(w, scale).Give(begin, count, &tile);
      // None where the format wants none.
      tile.unpacked = unpacked_ == nullptr ? nullptr : unpacked_ + thread * unpacked_floats_;
      micro_.dot[bf16_rows_][shape_.format](tile);
      return;
    }
    const int64_t from = w.dim(0);
    const int64_t to = w.dim(1);
    for (int64_t r = 0; r < tile.rows; ++r) std::fill_n(tile.y + r * tile.y_stride, count, 0.0f);
    // Rows of w a pass. Rows of x come back to them while they are in L1; with few of those, few
    // rows of w, so that each streams.
    const int64_t step = tile.rows < 4 ? 4 : 16;
    for (int64_t i = 0; i < from; i += step) {
      micro_.weighted[shape_.format](
          {.p = static_cast<const float*>(tile.x) + i,
           .p_stride = tile.x_stride,
           .rows = tile.rows,
           .v = static_cast<const char*>(w.raw()) + shape_.RowBytes(i * to + begin),
           .v_stride = to,
           .count = std::min(step, from - i),
           .out = tile.y,
           .out_stride = tile.y_stride,
           .width = count});
    }
  }

  // scratch[rows, f .. f + inner_block_) = glu(gate, up).
  void GateUp(const Segment& segment, int64_t f, int thread) const {
    const ExpertWeights& w = a_.experts[segment.expert];
    const int64_t count = std::min(inner_block_, shape_.inner - f);
    // Both factors of inner_block_ columns, in turn when fused, else one after the other.
    float* gate = gate_up_ + thread * kExpertThreadBytes / 4;
    float* up = gate + inner_block_;
    const int64_t stride = 2 * inner_block_;
    for (int64_t row = 0; row < segment.count; row += kExpertRows) {
      DotTile tile{.x = X(segment.begin + row),
                   .x_stride = x_stride_,
                   .rows = std::min(kExpertRows, segment.count - row),
                   .y = gate,
                   .y_stride = stride,
                   .prefetch = row == 0};
      if (shape_.fused) {
        Product(w.gate, w.gate_scale, 2 * f, 2 * count, tile, thread);
      } else {
        Product(w.gate, w.gate_scale, f, count, tile, thread);
        tile.y = up;
        Product(w.up, w.up_scale, f, count, tile, thread);
      }
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t at = (segment.begin + row + r) * inner_stride_ + f;
        if (shape_.fused) {
          AddBias(w.gate_bias, 2 * f, 2 * count, gate + r * stride);
          FusedGlu(gate + r * stride, at, count);
        } else {
          PlainGlu(gate + r * stride, up + r * stride, at, count);
        }
      }
    }
  }

  // The scratch from element `at` on; gate may be overwritten.
  void PlainGlu(float* gate, const float* up, int64_t at, int64_t count) const {
    const bool clamped = a_.glu.kind == Glu::Kind::kClamped;
    if (clamped) micro_.clamped_glu({gate, up, gate, count, a_.glu.limit, a_.glu.alpha});
    if (!bf16_rows_) {
      float* to = a_.scratch.f32() + at;
      if (clamped) {
        std::copy_n(gate, count, to);
      } else {
        micro_.swiglu(gate, up, to, count);
      }
      if (shape_.round) RoundInPlace(to, count, to);
    } else if (clamped) {
      micro_.round_bf16(gate, static_cast<bf16*>(a_.scratch.raw()) + at, count);
    } else {
      micro_.swiglu_bf16(gate, up, static_cast<bf16*>(a_.scratch.raw()) + at, count);
    }
  }

  // The same of pairs (gate, up).
  void FusedGlu(const float* pairs, int64_t at, int64_t count) const {
    constexpr int64_t kBlock = 64;
    float gate[kBlock];
    float up[kBlock];
    for (int64_t i = 0; i < count; i += kBlock) {
      const int64_t n = std::min(kBlock, count - i);
      for (int64_t j = 0; j < n; ++j) {
        gate[j] = pairs[2 * (i + j)];
        up[j] = pairs[2 * (i + j) + 1];
      }
      PlainGlu(gate, up, at + i, n);
    }
  }

  void Down(const Segment& segment, int64_t output, int64_t block, int thread) const {
    const ExpertWeights& w = a_.experts[segment.expert];
    const int64_t count = std::min(block, shape_.hidden - output);
    float* y = a_.y.f32() + segment.begin * shape_.hidden + output;
    Product(w.down, w.down_scale, output, count,
            {.x = static_cast<const char*>(a_.scratch.raw()) +
                  segment.begin * inner_stride_ * (bf16_rows_ ? 2 : 4),
             .x_stride = inner_stride_,
             .rows = segment.count,
             .y = y,
             .y_stride = shape_.hidden,
             .prefetch = true},
            thread);
    for (int64_t r = 0; r < segment.count; ++r) {
      AddBias(w.down_bias, output, count, y + r * shape_.hidden);
    }
  }

  const Micro& micro_;
  const ExpertFfnArgs& a_;
  const Shape shape_;
  const Stream& stream_;
  Scratch scratch_;
  bool bf16_rows_ = false;  // x and what glu gave; else f32
  float* gate_up_ = nullptr;
  float* unpacked_ = nullptr;
  int64_t unpacked_floats_ = 0;    // of a thread
  std::byte* laid_out_ = nullptr;  // x of the batch's rows, if it has to be laid out anew
  int64_t rows_max_ = 0;
  int64_t first_row_ = 0;
  int64_t x_stride_ = 0;
  int64_t inner_stride_ = 0;
  int64_t inner_block_ = 0;
};

}  // namespace

void CpuKernels::ExpertFfn(const ExpertFfnArgs& a, const Stream& stream) const {
  CHOIR_CHECK(a.offsets.size() == a.experts.size() + 1 && a.offsets.front() == 0 &&
              a.offsets.back() == a.x.dim(0));
  CHOIR_CHECK(!a.has_f8_rows());  // GPUs have those
  CHOIR_CHECK(a.x.dtype() == DType::kF32 || a.compute == Compute::kBF16);
  CHOIR_CHECK(a.y.dim(0) == a.x.dim(0) && a.scratch.dim(0) >= a.x.dim(0));
  if (a.experts.empty() || a.x.dim(0) == 0) return;
  Ffn(micro_, a, stream).Run();
}

}  // namespace choir::cpu
