// ExpertFfn: all experts of a layer as one list of tasks, twice: gate and up, then down.
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/work.h"

namespace choir::cpu {
namespace {

// Rows [begin, begin + count) of the batch, all of one expert.
struct Segment {
  size_t expert = 0;
  int64_t begin = 0;
  int64_t count = 0;
};

struct Sizes {
  int64_t hidden = 0;
  int64_t inner = 0;
  int64_t w_size = 0;  // bytes of a weight
};

// Rows of a weight matrix a task takes: of a size that streams well, and enough tasks for the team.
int64_t BlockOf(int64_t matrix_rows, int64_t row_bytes, int64_t segments, int threads) {
  const int64_t fitting = std::max<int64_t>(4, kPanelBytes / 2 / row_bytes / 4 * 4);
  const int64_t blocks_wanted = CeilDiv(4 * threads, segments);
  const int64_t even = RoundUp(CeilDiv(matrix_rows, blocks_wanted), 4);
  return std::min({kExpertBlock, fitting, even});
}

class Ffn {
 public:
  Ffn(const Micro& micro, const ExpertFfnArgs& args, const Stream& stream)
      : micro_(micro), a_(args), stream_(stream), scratch_(stream) {
    sizes_ = {a_.x.dim(1), a_.scratch.dim(1),
              static_cast<int64_t>(SizeOf(a_.experts.front().gate.dtype()))};
    w_bf16_ = a_.experts.front().gate.dtype() == DType::kBF16;
    for (const ExpertWeights& w : a_.experts) {
      CHOIR_CHECK(w.gate.dtype() == w.down.dtype() && w.up.dtype() == w.down.dtype());
      CHOIR_CHECK((w.gate.dtype() == DType::kBF16) == w_bf16_);
      CHOIR_CHECK(w.gate.dim(0) == sizes_.inner && w.gate.dim(1) == sizes_.hidden);
      CHOIR_CHECK(w.down.dim(0) == sizes_.hidden && w.down.dim(1) == sizes_.inner);
    }
    round_ = a_.compute == Compute::kBF16;
    gate_up_ = scratch_.Take<float>(TeamSize(stream) * kExpertThreadBytes / 4);
    // The f32 scratch holds gate · up rounded to bf16 in half its bytes: room to set rows apart.
    inner_stride_ = round_ ? std::min(Bf16Stride(sizes_.inner), 2 * sizes_.inner) : sizes_.inner;
    x_stride_ = sizes_.hidden;
    // Rows that are bf16 already are used where they lie, unless they would share sets of the L1
    // cache.
    const bool copies_x = round_ && (a_.x.dtype() == DType::kF32 || sizes_.hidden % 2048 == 0);
    rows_max_ = a_.x.dim(0);
    if (copies_x) {
      x_stride_ = Bf16Stride(sizes_.hidden);
      rows_max_ = std::min(rows_max_, static_cast<int64_t>(scratch_.left()) / (2 * x_stride_));
      CHOIR_CHECK(rows_max_ > 0);
      rounded_ = scratch_.Take<bf16>(rows_max_ * x_stride_);
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
    if (rounded_ != nullptr) LayOutX(rows);
    const int64_t matrix = sizes_.hidden * sizes_.inner;
    const int threads = TeamSize(stream_);
    inner_block_ = BlockOf(sizes_.inner, sizes_.hidden * sizes_.w_size, segments, threads);
    const int64_t inner_blocks = CeilDiv(sizes_.inner, inner_block_);
    const int64_t ns = ForecastNs(segments * matrix * sizes_.w_size, rows * matrix);
    ForTasks(stream_, segments * inner_blocks, 2 * ns, [&](int64_t task, int thread) {
      GateUp(batch[static_cast<size_t>(task / inner_blocks)], task % inner_blocks * inner_block_,
             gate_up_ + thread * kExpertThreadBytes / 4);
    });
    const int64_t block = BlockOf(sizes_.hidden, sizes_.inner * sizes_.w_size, segments, threads);
    const int64_t blocks = CeilDiv(sizes_.hidden, block);
    ForTasks(stream_, segments * blocks, ns, [&](int64_t task, int) {
      Down(batch[static_cast<size_t>(task / blocks)], task % blocks * block, block);
    });
  }

  // x of the batch's `rows` rows, as bf16 rows x_stride_ apart.
  void LayOutX(int64_t rows) const {
    const int64_t hidden = sizes_.hidden;
    if (a_.x.dtype() == DType::kF32) {
      RoundRows(micro_, a_.x.f32() + first_row_ * hidden, hidden, rows, rounded_, stream_);
      return;
    }
    const bf16* x = a_.x.b16() + first_row_ * hidden;
    ForRanges(stream_, rows, hidden / 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        std::copy_n(x + r * hidden, hidden, rounded_ + r * x_stride_);
      }
    });
  }

  const void* X(int64_t row) const {
    if (rounded_ != nullptr) return rounded_ + (row - first_row_) * x_stride_;
    return static_cast<const char*>(a_.x.raw()) +
           row * sizes_.hidden * static_cast<int64_t>(SizeOf(a_.x.dtype()));
  }

  // scratch[rows, f .. f + inner_block_) = silu(gate) · up; `temporary` holds both factors.
  void GateUp(const Segment& segment, int64_t f, float* temporary) const {
    const ExpertWeights& w = a_.experts[segment.expert];
    const int64_t count = std::min(inner_block_, sizes_.inner - f);
    float* up = temporary + kExpertRows * kExpertBlock;
    for (int64_t row = 0; row < segment.count; row += kExpertRows) {
      DotTile tile{.x = X(segment.begin + row),
                   .x_stride = x_stride_,
                   .rows = std::min(kExpertRows, segment.count - row),
                   .w_stride = sizes_.hidden,
                   .outputs = count,
                   .width = sizes_.hidden,
                   .y_stride = kExpertBlock,
                   .prefetch = row == 0};
      tile.w = static_cast<const char*>(w.gate.raw()) + f * sizes_.hidden * sizes_.w_size;
      tile.y = temporary;
      micro_.dot[round_][w_bf16_](tile);
      tile.w = static_cast<const char*>(w.up.raw()) + f * sizes_.hidden * sizes_.w_size;
      tile.y = up;
      micro_.dot[round_][w_bf16_](tile);
      for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t at = (segment.begin + row + r) * inner_stride_ + f;
        const float* g = temporary + r * kExpertBlock;
        const float* u = up + r * kExpertBlock;
        if (round_) {
          micro_.swiglu_bf16(g, u, static_cast<bf16*>(a_.scratch.raw()) + at, count);
        } else {
          micro_.swiglu(g, u, a_.scratch.f32() + at, count);
        }
      }
    }
  }

  void Down(const Segment& segment, int64_t output, int64_t block) const {
    const ExpertWeights& w = a_.experts[segment.expert];
    const char* h = static_cast<const char*>(a_.scratch.raw());
    micro_.dot[round_][w_bf16_](
        {.x = h + segment.begin * inner_stride_ * (round_ ? 2 : 4),
         .x_stride = inner_stride_,
         .rows = segment.count,
         .w = static_cast<const char*>(w.down.raw()) + output * sizes_.inner * sizes_.w_size,
         .w_stride = sizes_.inner,
         .outputs = std::min(block, sizes_.hidden - output),
         .width = sizes_.inner,
         .y = a_.y.f32() + segment.begin * sizes_.hidden + output,
         .y_stride = sizes_.hidden,
         .prefetch = true});
  }

  const Micro& micro_;
  const ExpertFfnArgs& a_;
  const Stream& stream_;
  Scratch scratch_;
  Sizes sizes_;
  bool w_bf16_ = false;
  bool round_ = false;
  float* gate_up_ = nullptr;
  bf16* rounded_ = nullptr;  // x of the batch's rows, if it has to be laid out anew
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
  CHOIR_CHECK(a.x.dtype() == DType::kF32 || a.compute == Compute::kBF16);
  CHOIR_CHECK(a.y.dim(0) == a.x.dim(0) && a.scratch.dim(0) >= a.x.dim(0));
  if (a.experts.empty() || a.x.dim(0) == 0) return;
  Ffn(micro_, a, stream).Run();
}

}  // namespace choir::cpu
