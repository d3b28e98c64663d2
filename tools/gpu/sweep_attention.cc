// Storing KV, GQA and MLA attention at random shapes: ragged sequences over scattered blocks.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "tools/gpu/sweep_cases.h"

namespace choir::gpu {
namespace {

// A power of two, so that it does not matter when it is multiplied.
constexpr float kScale = 0.0625f;

// Rounding a probability to bf16, in the sum and below it, moves a mean of values by this much of
// the largest at the most. Queries are exact in bf16 here.
constexpr double kProbabilityUnit = 1.0 / 128;

struct Sequences {
  std::vector<int32_t> table;
  std::vector<AttentionSequence> sequences;
  int64_t rows = 0, blocks = 0, keys = 0;
};

std::shared_ptr<const Sequences> MakeSequences(Draw& draw, int64_t block_tokens) {
  auto made = std::make_shared<Sequences>();
  const int64_t count = draw.Int(1, 6);
  std::vector<int64_t> begins;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t keys = draw.Size(draw.sizes().keys_max);
    const int64_t rows = draw.Coin() ? 1 : draw.Int(1, std::min<int64_t>(keys, 20));
    made->sequences.push_back({static_cast<int32_t>(made->rows), static_cast<int32_t>(rows),
                               static_cast<int32_t>(keys - rows), nullptr});
    begins.push_back(made->blocks);
    made->rows += rows;
    made->blocks += (keys + block_tokens - 1) / block_tokens;
    made->keys = std::max(made->keys, keys);
  }
  made->table.resize(static_cast<size_t>(made->blocks));
  std::iota(made->table.begin(), made->table.end(), 0);
  for (size_t i = made->table.size(); i > 1; --i) {
    std::swap(made->table[i - 1],
              made->table[static_cast<size_t>(draw.Int(0, static_cast<int64_t>(i) - 1))]);
  }
  for (size_t i = 0; i < begins.size(); ++i) {
    made->sequences[i].block_table = made->table.data() + begins[i];
  }
  return made;
}

// Values that bf16 holds, as f32.
TensorView Queries(Draw& draw, std::initializer_list<int64_t> shape) {
  const Draw::Values rounded = draw.Make(DType::kBF16, shape);
  const TensorView q = draw.Space(DType::kF32, shape);
  draw.card().Upload(q, rounded.f32.data());
  return q;
}

SweepCase PagedAttention(Draw& draw) {
  const int64_t block_tokens = int64_t{8} << draw.Int(0, 3);
  const auto s = MakeSequences(draw, block_tokens);
  const int64_t kv_heads = draw.Int(1, std::min<int64_t>(8, draw.sizes().heads_max));
  const int64_t heads =
      kv_heads * draw.Int(1, std::max<int64_t>(draw.sizes().heads_max / kv_heads / 4, 1));
  const int64_t dim = draw.Coin() ? 128 : 8 * draw.Int(1, 16);
  const int64_t v_dim = draw.Coin() ? dim : 8 * draw.Int(1, 16);
  const DType dtype = draw.Coin() ? DType::kBF16 : DType::kF32;
  PagedAttentionArgs args{.q = Queries(draw, {s->rows, heads, dim}),
                          .k = {draw.Make(dtype, {s->blocks, block_tokens, kv_heads * dim}).view},
                          .v = {draw.Make(dtype, {s->blocks, block_tokens, kv_heads * v_dim}).view},
                          .out = draw.Space(DType::kF32, {s->rows, heads, v_dim}),
                          .sequences = s->sequences,
                          .kv_heads = kv_heads,
                          .scale = kScale};
  args.window = draw.Coin() ? 0 : draw.Int(1, s->keys);
  if (draw.Coin()) args.sinks = draw.Make(DType::kF32, {heads}).view;
  SweepCase c =
      CaseOf("paged_attention",
             fmt::format("{} rows of {} sequences, up to {} keys, {}/{} heads of {}/{}, "
                         "{}, window {}{}",
                         s->rows, s->sequences.size(), s->keys, heads, kv_heads, dim, v_dim,
                         NameOf(dtype), args.window, args.sinks.empty() ? "" : ", sinks"),
             args, &cuda::KernelTable::paged_attention);
  c.outputs.push_back({.name = "out", .at = args.out, .before = {}, .bound = [s](int64_t, double) {
                         return kProbabilityUnit;
                       }});
  return c;
}

SweepCase MlaAttention(Draw& draw) {
  const int64_t block_tokens = int64_t{8} << draw.Int(0, 3);
  const auto s = MakeSequences(draw, block_tokens);
  const bool hopper = draw.sizes().hopper && draw.Coin();
  const int64_t heads = hopper ? 64 * draw.Int(1, 2) : draw.Size(draw.sizes().heads_max);
  const bool published = hopper || (draw.Coin() && draw.sizes().width_max > 576);
  const int64_t lora = published ? 512 : 8 * draw.Int(1, 20),
                rope = published ? 64 : 8 * draw.Int(1, 6);
  const DType dtype = hopper || draw.Coin() ? DType::kBF16 : DType::kF32;
  const MlaAttentionArgs args{
      .q_latent = Queries(draw, {s->rows, heads, lora}),
      .q_rope = Queries(draw, {s->rows, heads, rope}),
      .latent = {draw.Make(dtype, {s->blocks, block_tokens, lora + rope}).view},
      .out = draw.Space(DType::kF32, {s->rows, heads, lora}),
      .sequences = s->sequences,
      .scale = kScale};
  SweepCase c =
      CaseOf("mla_attention",
             fmt::format("{} rows of {} sequences, up to {} keys, {} heads, {} + {}, {}", s->rows,
                         s->sequences.size(), s->keys, heads, lora, rope, NameOf(dtype)),
             args, &cuda::KernelTable::mla_attention);
  c.outputs.push_back({.name = "out", .at = args.out, .before = {}, .bound = [s](int64_t, double) {
                         return kProbabilityUnit;
                       }});
  return c;
}

SweepCase StoreKv(Draw& draw) {
  const int64_t block_tokens = int64_t{8} << draw.Int(0, 3);
  const int64_t rows = draw.Size(draw.sizes().rows_max), width = 2 * draw.Int(1, 300);
  const int64_t column = draw.Coin() ? 0 : draw.Int(1, 9), pool = column + width + draw.Int(0, 5);
  const int64_t blocks = (rows + block_tokens - 1) / block_tokens + 1;
  const DType dtype = draw.Coin() ? DType::kBF16 : DType::kF32;
  const auto slots = std::make_shared<std::vector<int64_t>>(static_cast<size_t>(rows));
  std::iota(slots->rbegin(), slots->rend(), draw.Int(0, block_tokens));
  const StoreKvArgs args{.x = draw.Make(DType::kF32, {rows, width}).view,
                         .kv = {draw.Space(dtype, {blocks, block_tokens, pool})},
                         .kv_column = column,
                         .slots = *slots};
  SweepCase c = CaseOf(
      "store_kv",
      fmt::format("{} x {} at column {} of {}, {}", rows, width, column, pool, NameOf(dtype)), args,
      &cuda::KernelTable::store_kv);
  c.outputs.push_back({.name = "kv",
                       .at = args.kv.data,
                       .before = std::vector<std::byte>(args.kv.data.num_bytes(), std::byte{0x11}),
                       .bound = {}});
  c.run = [args, slots](const cuda::KernelTable& table, const cuda::KernelStream& stream) {
    table.store_kv(args, stream);
  };
  return c;
}

}  // namespace

std::vector<SweepOp> SweepAttention() {
  return {
      {"paged_attention", PagedAttention}, {"mla_attention", MlaAttention}, {"store_kv", StoreKv}};
}

}  // namespace choir::gpu
