// paged_attention (GQA) and mla_attention (absorbed) on tensor cores, prefill and decode alike.
// Shapes   kernels/ops/attention.h with pools in bf16, where columns of a head are multiples of 8,
//          at most 576 of k and 512 of v. Anything else goes the simple way.
// Bound    a key's bytes are read once for all heads that share it. GQA: 2 · (d + dv) bytes and as
//          many flops a head, so 4 heads make 4 flops a byte: memory. MLA: 1,152 bytes and 278,528
//          flops with 128 heads, 242 a byte: on an H200 0.24 ns by memory (4.8 TB/s), 0.28 ns by
//          dense BF16 (989 TFLOPS), so tensor cores are the wall.
// Plan     a block a tile: 64 or 16 queries of a sequence that share a KV head (heads of a group,
//          times rows), 64 keys at a time through shared memory by copies that run ahead
//          (attend_tile.cuh). q and exp(score - top) are rounded to bf16, sums are FP32.
//          Keys are cut into chunks at absolute positions. A chunk is computed from nothing, and
//          chunks are folded in ascending order: by the block itself, in `out`; or, where tiles are
//          fewer than multiprocessors, each by a block of its own, and a second kernel folds them.
//          Both give the same bits, so the plan may look at the card, the batch and the workspace.
// Counted  not run: 64 keys by 64 queries of MLA are 2,176 MMAs of 2 clocks (1.6 on Hopper, by what
//          others measured) and 5,060 clocks of shared memory; with nothing else in the way 410
//          TFLOPS, 41 % of an H200's dense peak, 35 % of its memory. The rest is for a rung with
//          WGMMA, which reads its operands from shared memory once. docs/decisions/0036.
// Oracle   kernels/reference/attention.cc; bounds in tests/contract/kernels/attention_test.cc.
#pragma once

#include "kernels/cuda/kernel_table.h"
#include "kernels/cuda/tensor/attend_plan.cuh"
#include "kernels/cuda/tensor/attend_tile.cuh"

namespace choir::cuda {

// A part of 64 queries of MLA is as many bytes, there and back, as 228 latents.
inline constexpr int32_t kMlaChunk = 1024;
inline constexpr int32_t kGqaChunk = 512;

// Block (x, i): folds the parts of this launch for query i of tile x.
template <class Tiles>
struct FoldPartsKernel {
  static constexpr int kThreads = 128;
  static constexpr int kColumns = 4;  // of a thread: v_columns <= kThreads * kColumns

  AttendProblem a;
  AttendParts parts;
  int32_t queries;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const AttendTile tile = FindTile(a, block.x());
    const int32_t row = QueryRow(a, tile, static_cast<int>(block.y()));
    const int32_t chunks = tile.Chunks(a.chunk);
    if (row < 0 || parts.begin >= chunks) return;
    const int32_t left = chunks - parts.begin;
    const int32_t count = left < parts.count ? left : parts.count;
    float* state = parts.states + (block.x() * queries + block.y()) * 2;
    float* out = a.out + int64_t{row} * a.v_columns;
    const bool first = parts.begin == 0;
    Softmax all = first ? SoftmaxBegin(a.sinks, row % a.heads) : Softmax{state[0], state[1]};
    float values[kColumns];
    CHOIR_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      const int column = block.thread() + j * kThreads;
      values[j] = first || column >= a.v_columns ? 0.0f : out[column];
    }
    for (int32_t p = 0; p < count; ++p) {
      const int64_t at = (block.x() * parts.count + p) * queries + block.y();
      const Fold fold = FoldOf(all, {parts.folds[at * 2], parts.folds[at * 2 + 1]});
      all = fold.all;
      CHOIR_UNROLL
      for (int j = 0; j < kColumns; ++j) {
        const int column = block.thread() + j * kThreads;
        if (column >= a.v_columns) break;
        values[j] = Folded(values[j], fold.keep, parts.values[at * a.v_columns + column], fold.add);
      }
    }
    const bool last = count == left;
    CHOIR_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      const int column = block.thread() + j * kThreads;
      if (column < a.v_columns) out[column] = last ? Tiles::Mean(values[j], all.sum) : values[j];
    }
    block.Sync();  // all have read the state
    if (block.thread() == 0) {
      state[0] = all.top;
      state[1] = all.sum;
    }
  }
};

template <int kRowTiles, class Runner>
void RunTiles(const AttendProblem& a, const AttendParts& parts, const AttendPlan& plan,
              const Runner& run) {
  const Grid grid{.x = TilesOf(a),
                  .y = std::max(1, parts.count),
                  .threads = kAttendThreads,
                  .shared_bytes = SharedBytes(plan.sizes)};
  if (a.v_columns <= 128) {
    run(grid, AttendTileKernel<kRowTiles, 2>{a, parts, plan.sizes});
  } else if (a.v_columns <= 256) {
    run(grid, AttendTileKernel<kRowTiles, 4>{a, parts, plan.sizes});
  } else {
    run(grid, AttendTileKernel<kRowTiles, 8>{a, parts, plan.sizes});
  }
}

// How chunks are computed: Plan sets the tile of `a`, too; Run starts the kernel of a launch; Mean
// divides at last.
struct MmaTiles {
  static AttendPlan Plan(AttendProblem* a, const AttendBounds& bounds, const CardLimits& card,
                         size_t part_bytes) {
    return PlanOf(a, bounds, card, part_bytes);
  }
  static void Run(const AttendProblem& a, const AttendParts& parts, const AttendPlan& plan,
                  const auto& run) {
    if (plan.row_tiles == 4) return RunTiles<4>(a, parts, plan, run);
    RunTiles<1>(a, parts, plan, run);
  }
  CHOIR_DEVICE static float Mean(float values, float sum) { return values / sum; }
};

// `room`: of the plan.
template <class Tiles, class Runner>
void AttendBatch(const AttendProblem& a, const AttendBounds& bounds, const AttendPlan& plan,
                 std::byte* room, const Runner& run) {
  if (plan.parts_at_once == 0) return Tiles::Run(a, {}, plan, run);
  const int32_t queries = plan.sizes.queries;
  const int64_t lines = TilesOf(a) * queries;
  AttendParts parts;
  parts.count = static_cast<int32_t>(plan.parts_at_once);
  parts.states = reinterpret_cast<float*>(room);
  parts.folds = parts.states + 2 * lines;
  parts.values = parts.folds + 2 * lines * parts.count;
  for (int64_t begin = 0; begin < bounds.chunks; begin += parts.count) {
    parts.begin = static_cast<int32_t>(begin);
    Tiles::Run(a, parts, plan, run);
    run({.x = TilesOf(a), .y = queries, .threads = FoldPartsKernel<Tiles>::kThreads},
        FoldPartsKernel<Tiles>{a, parts, queries});
  }
}

template <class Runner, class Tiles>
void AttendAll(AttendProblem a, const Staged<AttentionSequence>& all, int64_t keys_max,
               const KernelStream& stream) {
  const size_t tables = TableBytes(all, a.block_tokens, stream.workspace.size());
  const std::span<std::byte> room = stream.workspace.subspan(tables);
  const Runner run({.native = stream.native, .workspace = stream.workspace.first(tables)});
  const AttendBounds bounds = BoundsOf(all, keys_max, a);
  ForSequences(all, a.rows, a.block_tokens, run, [&](const PagedBatch& batch, int64_t rows) {
    AttendProblem launch = a;
    launch.batch = batch;
    launch.rows = static_cast<int32_t>(rows);
    const AttendPlan plan = Tiles::Plan(&launch, bounds, run.card(), room.size());
    AttendBatch<Tiles>(launch, bounds, plan, room.data(), run);
  });
}

inline bool HasMmaForm(const KvView& kv, int64_t columns) {
  return kv.data.dtype() == DType::kBF16 && columns % kUnit8 == 0;
}

inline AttendPool PoolOf(const KvView& kv, int64_t columns) {
  const auto* data = static_cast<const bf16*>(kv.data.raw());
  CHOIR_CHECK(reinterpret_cast<uintptr_t>(data) % sizeof(Wide16) == 0);
  return {data, kv.width(), static_cast<int32_t>(columns)};
}

inline AttendQueries QueriesOf(const TensorView& q) {
  CHOIR_CHECK(reinterpret_cast<uintptr_t>(q.f32()) % sizeof(Wide16) == 0);
  return {q.f32(), static_cast<int32_t>(q.dim(2))};
}

inline constexpr int64_t kMmaKeyColumnsMax = 576;
inline constexpr int64_t kMmaValueColumnsMax = 512;

template <class Runner>
void MmaPagedAttention(const PagedAttentionArgs& args, const KernelStream& stream) {
  const int64_t k = args.q.dim(2);
  const int64_t v = args.out.dim(2);
  if (!HasMmaForm(args.k, k) || !HasMmaForm(args.v, v) || k > kMmaKeyColumnsMax ||
      v > kMmaValueColumnsMax) {
    return PagedAttention(args, Runner(stream));
  }
  const int64_t heads = args.q.dim(1);
  CHOIR_CHECK(heads % args.kv_heads == 0 && args.k.block_tokens() == args.v.block_tokens());
  CHOIR_CHECK(args.k.width() == args.kv_heads * k && args.v.width() == args.kv_heads * v);
  AttendProblem a{};
  a.q = QueriesOf(args.q);
  a.k = PoolOf(args.k, k);
  a.v = PoolOf(args.v, v);
  a.rows = static_cast<int32_t>(args.out.dim(0));
  a.out = args.out.f32();
  a.sinks = args.sinks.empty() ? nullptr : args.sinks.f32();
  a.v_columns = static_cast<int32_t>(v);
  a.block_tokens = static_cast<int32_t>(args.k.block_tokens());
  a.chunk = kGqaChunk;
  a.window = static_cast<int32_t>(args.window);
  a.heads = static_cast<int32_t>(heads);
  a.kv_heads = static_cast<int32_t>(args.kv_heads);
  a.group = a.heads / a.kv_heads;
  a.scale = args.scale;
  AttendAll<Runner, MmaTiles>(a, args.sequences, args.keys_max, stream);
}

inline AttendProblem ProblemOf(const MlaAttentionArgs& args) {
  const int64_t lora = args.q_latent.dim(2);
  const int64_t rope = args.q_rope.dim(2);
  CHOIR_CHECK(args.latent.width() == lora + rope && args.out.dim(2) == lora);
  AttendProblem a{};
  a.q = QueriesOf(args.q_latent);
  a.q_rope = QueriesOf(args.q_rope);
  a.k = PoolOf(args.latent, lora + rope);
  a.rows = static_cast<int32_t>(args.out.dim(0));
  a.out = args.out.f32();
  a.v_columns = static_cast<int32_t>(lora);
  a.block_tokens = static_cast<int32_t>(args.latent.block_tokens());
  a.chunk = kMlaChunk;
  a.heads = static_cast<int32_t>(args.q_latent.dim(1));
  a.kv_heads = 1;
  a.group = a.heads;
  a.scale = args.scale;
  return a;
}

template <class Runner>
void MmaMlaAttention(const MlaAttentionArgs& args, const KernelStream& stream) {
  const int64_t lora = args.q_latent.dim(2);
  const int64_t rope = args.q_rope.dim(2);
  if (!HasMmaForm(args.latent, lora) || rope % kUnit8 != 0 || lora > kMmaValueColumnsMax ||
      lora + rope > kMmaKeyColumnsMax) {
    return MlaAttention(args, Runner(stream));
  }
  AttendAll<Runner, MmaTiles>(ProblemOf(args), args.sequences, args.keys_max, stream);
}

// Replaces the attention of a table of simple kernels.
template <class Runner>
void FillTensorAttention(KernelTable* t) {
  using S = const KernelStream&;
  t->paged_attention = [](const PagedAttentionArgs& a, S s) { MmaPagedAttention<Runner>(a, s); };
  t->mla_attention = [](const MlaAttentionArgs& a, S s) { MmaMlaAttention<Runner>(a, s); };
}

}  // namespace choir::cuda
