// Paged attention, for GQA and for MLA's absorbed form: both are queries of some width against rows
// of the pool, softmax, and a weighted sum of rows of the pool. A task is a block of query rows
// that see the same keys: (sequence, kv head, rows of token × head in group).
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/work.h"

namespace choir::cpu {
namespace {

// Most query rows of a task: enough to use each key often, few enough to balance and to stay in L2.
constexpr int64_t kTaskRows = 64;
// Fewer rows than this are never worth reading the keys again.
constexpr int64_t kLeastRows = 8;

// A part of a query: [T, heads, width].
struct QueryPart {
  const float* data = nullptr;
  int64_t width = 0;
};

struct Columns {
  KvView kv;
  int64_t width = 0;  // per kv head, from column kv_head * width

  bool is_bf16() const { return kv.data.dtype() == DType::kBF16; }
  const void* Row(const int32_t* block_table, int64_t position, int64_t kv_head) const {
    const int64_t tokens = kv.block_tokens();
    const int64_t block = block_table[position / tokens];
    CHOIR_DCHECK(block >= 0 && block < kv.data.dim(0));
    const int64_t at = (block * tokens + position % tokens) * kv.width() + kv_head * width;
    return static_cast<const char*>(kv.data.raw()) +
           at * static_cast<int64_t>(SizeOf(kv.data.dtype()));
  }
};

struct Plan {
  QueryPart parts[2];
  Columns k, v;
  float* out = nullptr;  // [T, heads, v.width]
  std::span<const AttentionSequence> sequences;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t window = 0;
  float scale = 1.0f;
  const float* sinks = nullptr;

  int64_t group() const { return heads / kv_heads; }
};

struct Task {
  const AttentionSequence* sequence = nullptr;
  int64_t kv_head = 0;
  int64_t row = 0;  // first, of row_count * group
  int64_t count = 0;
};

// Keys [begin, end) that a query sees.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  bool operator==(const Range&) const = default;
};

class Worker {
 public:
  Worker(const Micro& micro, const Plan& plan, const Task& task, Scratch& scratch)
      : micro_(micro), plan_(plan), task_(task) {
    const int64_t first = PositionOf(0);
    keys_ = {RangeOf(first).begin, PositionOf(task.count - 1) + 1};
    stride_ = RoundUp(keys_.end - keys_.begin, 16);
    scores_ = scratch.Take<float>(task.count * stride_);
    q_ = scratch.Take<float>(task.count * plan.k.width);
    sums_ = scratch.Take<float>(task.count * plan.v.width);
  }

  void Run() {
    GatherQueries();
    Scores();
    std::fill_n(sums_, task_.count * plan_.v.width, 0.0f);
    float inverse[kTaskRows];
    for (int64_t r = 0; r < task_.count; ++r) {
      const Range range = RangeOf(PositionOf(r));
      const float* sink = plan_.sinks != nullptr ? plan_.sinks + HeadOf(r) : nullptr;
      inverse[r] = micro_.softmax(ScoresOf(r) + range.begin - keys_.begin, range.end - range.begin,
                                  plan_.scale, sink);
    }
    Values();
    for (int64_t r = 0; r < task_.count; ++r) {
      float* out = plan_.out + BatchRowOf(r) * plan_.v.width;
      const float* sum = sums_ + r * plan_.v.width;
      for (int64_t i = 0; i < plan_.v.width; ++i) out[i] = sum[i] * inverse[r];
    }
  }

 private:
  int64_t PositionOf(int64_t r) const {
    return task_.sequence->first_position + (task_.row + r) / plan_.group();
  }
  int64_t HeadOf(int64_t r) const {
    return task_.kv_head * plan_.group() + (task_.row + r) % plan_.group();
  }
  // The row of q and out seen as [T * heads].
  int64_t BatchRowOf(int64_t r) const {
    const int64_t token = task_.sequence->row_begin + (task_.row + r) / plan_.group();
    return token * plan_.heads + HeadOf(r);
  }
  Range RangeOf(int64_t position) const {
    const int64_t begin = plan_.window > 0 ? std::max<int64_t>(0, position - plan_.window + 1) : 0;
    return {begin, position + 1};
  }
  float* ScoresOf(int64_t r) const { return scores_ + r * stride_; }

  void GatherQueries() {
    for (int64_t r = 0; r < task_.count; ++r) {
      float* q = q_ + r * plan_.k.width;
      for (const QueryPart& part : plan_.parts) {
        if (part.width == 0) continue;
        std::memcpy(q, part.data + BatchRowOf(r) * part.width,
                    static_cast<size_t>(part.width) * sizeof(float));
        q += part.width;
      }
    }
  }

  // fn(Range) for each run of keys_ that lies in one block of `columns`.
  template <class Fn>
  void ForBlocks(const Columns& columns, const Fn& fn) const {
    const int64_t tokens = columns.kv.block_tokens();
    for (int64_t j = keys_.begin; j < keys_.end;) {
      const int64_t end = std::min(keys_.end, (j / tokens + 1) * tokens);
      fn(Range{j, end});
      j = end;
    }
  }

  void Scores() {
    ForBlocks(plan_.k, [&](Range keys) {
      micro_.dot[0][plan_.k.is_bf16()](
          {.x = q_,
           .x_stride = plan_.k.width,
           .rows = task_.count,
           .w = plan_.k.Row(task_.sequence->block_table, keys.begin, task_.kv_head),
           .w_stride = plan_.k.kv.width(),
           .outputs = keys.end - keys.begin,
           .width = plan_.k.width,
           .y = scores_ + keys.begin - keys_.begin,
           .y_stride = stride_});
    });
  }

  // Rows that see the same part of a block go through it together; each sums its keys in order.
  void Values() {
    ForBlocks(plan_.v, [&](Range block) {
      const auto seen = [&](int64_t r) {
        const Range range = RangeOf(PositionOf(r));
        return Range{std::max(range.begin, block.begin), std::min(range.end, block.end)};
      };
      for (int64_t r = 0; r < task_.count;) {
        const Range range = seen(r);
        int64_t end = r + 1;
        while (end < task_.count && seen(end) == range) ++end;
        if (range.begin < range.end) {
          micro_.weighted[plan_.v.is_bf16()](
              {.p = ScoresOf(r) + range.begin - keys_.begin,
               .p_stride = stride_,
               .rows = end - r,
               .v = plan_.v.Row(task_.sequence->block_table, range.begin, task_.kv_head),
               .v_stride = plan_.v.kv.width(),
               .count = range.end - range.begin,
               .out = sums_ + r * plan_.v.width,
               .out_stride = plan_.v.width,
               .width = plan_.v.width});
        }
        r = end;
      }
    });
  }

  const Micro& micro_;
  const Plan& plan_;
  const Task& task_;
  Range keys_;  // of all rows together
  int64_t stride_ = 0;
  float* scores_ = nullptr;  // [count, stride_]
  float* q_ = nullptr;       // [count, k.width]
  float* sums_ = nullptr;    // [count, v.width]
};

// Query rows of a task over this sequence that fit `floats` of scratch.
int64_t RowsFitting(const Plan& plan, const AttentionSequence& sequence, int64_t floats) {
  int64_t keys = sequence.first_position + sequence.row_count;
  if (plan.window > 0) keys = std::min(keys, plan.window + kTaskRows);
  const int64_t row = RoundUp(keys, 16) + plan.k.width + plan.v.width;
  const int64_t rows = (floats - 48) / row;  // each of three arrays is rounded up to 64 bytes
  CHOIR_CHECK(rows >= 1);
  return rows;
}

void Attention(const Micro& micro, const Plan& plan, const Stream& stream) {
  CHOIR_CHECK(plan.kv_heads > 0 && plan.heads % plan.kv_heads == 0);
  const int threads = TeamSize(stream);
  const size_t part_bytes = stream.workspace.size() / static_cast<size_t>(threads) / 64 * 64;
  int64_t all_rows = 0;
  int64_t work = 0;
  for (const AttentionSequence& s : plan.sequences) {
    all_rows += s.row_count * plan.heads;
    work += s.row_count * plan.heads * (s.first_position + s.row_count);
  }
  const int64_t even = std::clamp(CeilDiv(all_rows, 2 * threads), kLeastRows, kTaskRows);
  std::vector<Task> tasks;
  for (const AttentionSequence& s : plan.sequences) {
    const int64_t rows = s.row_count * plan.group();
    const int64_t most = std::min(even, RowsFitting(plan, s, static_cast<int64_t>(part_bytes / 4)));
    const int64_t blocks = CeilDiv(rows, most);
    for (int64_t b = blocks - 1; b >= 0;
         --b) {  // late rows see most keys: first, so that all end together
      const int64_t begin = rows * b / blocks;
      for (int64_t h = 0; h < plan.kv_heads; ++h) {
        tasks.push_back({&s, h, begin, rows * (b + 1) / blocks - begin});
      }
    }
  }
  const int64_t ns = ForecastNs(0, work * (plan.k.width + plan.v.width) * 4);
  ForTasks(stream, static_cast<int64_t>(tasks.size()), ns, [&](int64_t i, int thread) {
    Stream own = stream;
    own.workspace = stream.workspace.subspan(static_cast<size_t>(thread) * part_bytes, part_bytes);
    Scratch scratch(own);
    Worker(micro, plan, tasks[static_cast<size_t>(i)], scratch).Run();
  });
}

}  // namespace

void CpuKernels::PagedAttention(const PagedAttentionArgs& a, const Stream& stream) const {
  Plan plan;
  plan.heads = a.q.dim(1);
  plan.kv_heads = a.kv_heads;
  plan.parts[0] = {a.q.f32(), a.q.dim(2)};
  plan.k = {a.k, a.q.dim(2)};
  plan.v = {a.v, a.out.dim(2)};
  CHOIR_CHECK(a.k.width() == a.kv_heads * plan.k.width && a.v.width() == a.kv_heads * plan.v.width);
  plan.out = a.out.f32();
  plan.sequences = a.sequences;
  plan.window = a.window;
  plan.scale = a.scale;
  plan.sinks = a.sinks.empty() ? nullptr : a.sinks.f32();
  Attention(micro_, plan, stream);
}

void CpuKernels::MlaAttention(const MlaAttentionArgs& a, const Stream& stream) const {
  const int64_t lora = a.q_latent.dim(2);
  const int64_t rope = a.q_rope.dim(2);
  CHOIR_CHECK(a.latent.width() == lora + rope);
  Plan plan;
  plan.heads = a.q_latent.dim(1);
  plan.kv_heads = 1;
  plan.parts[0] = {a.q_latent.f32(), lora};
  plan.parts[1] = {a.q_rope.f32(), rope};
  plan.k = {a.latent, lora + rope};
  plan.v = {a.latent, lora};
  plan.out = a.out.f32();
  plan.sequences = a.sequences;
  plan.scale = a.scale;
  Attention(micro_, plan, stream);
}

}  // namespace choir::cpu
