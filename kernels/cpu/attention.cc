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
  int64_t head_bytes() const { return width * static_cast<int64_t>(SizeOf(kv.data.dtype())); }
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
  int64_t kv_head = 0;  // first of `kv_heads`
  int64_t kv_heads = 0;
  int64_t row = 0;  // first, of row_count * group, of `rows` for each kv head
  int64_t rows = 0;

  int64_t queries() const { return kv_heads * rows; }
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
    keys_ = {RangeOf(0).begin, RangeOf(task.rows - 1).end};
    stride_ = RoundUp(keys_.end - keys_.begin, 16);
    scores_ = scratch.Take<float>(task.queries() * stride_);
    q_ = scratch.Take<float>(task.queries() * plan.k.width);
    sums_ = scratch.Take<float>(task.queries() * plan.v.width);
  }

  void Run() {
    GatherQueries();
    Scores();
    float inverse[kTaskRows];
    for (int64_t i = 0; i < task_.queries(); ++i) {
      const Range range = RangeOf(i % task_.rows);
      const float* sink = plan_.sinks != nullptr ? plan_.sinks + HeadOf(i) : nullptr;
      inverse[i] = micro_.softmax(ScoresOf(i) + range.begin - keys_.begin, range.end - range.begin,
                                  plan_.scale, sink);
    }
    std::fill_n(sums_, task_.queries() * plan_.v.width, 0.0f);
    Values();
    for (int64_t i = 0; i < task_.queries(); ++i) {
      float* out = plan_.out + BatchRowOf(i) * plan_.v.width;
      const float* sum = sums_ + i * plan_.v.width;
      for (int64_t c = 0; c < plan_.v.width; ++c) out[c] = sum[c] * inverse[i];
    }
  }

 private:
  // Query i of the task: row i % rows of kv head i / rows.
  int64_t HeadOf(int64_t i) const {
    return (task_.kv_head + i / task_.rows) * plan_.group() +
           (task_.row + i % task_.rows) % plan_.group();
  }
  // Its row of q and out seen as [T * heads].
  int64_t BatchRowOf(int64_t i) const {
    const int64_t token = task_.sequence->row_begin + (task_.row + i % task_.rows) / plan_.group();
    return token * plan_.heads + HeadOf(i);
  }
  Range RangeOf(int64_t row) const {
    const int64_t position = task_.sequence->first_position + (task_.row + row) / plan_.group();
    const int64_t begin = plan_.window > 0 ? std::max<int64_t>(0, position - plan_.window + 1) : 0;
    return {begin, position + 1};
  }
  float* ScoresOf(int64_t i) const { return scores_ + i * stride_; }
  const void* Row(const Columns& columns, int64_t key, int64_t kv_head) const {
    return columns.Row(task_.sequence->block_table, key, kv_head);
  }

  void GatherQueries() {
    for (int64_t i = 0; i < task_.queries(); ++i) {
      float* q = q_ + i * plan_.k.width;
      for (const QueryPart& part : plan_.parts) {
        if (part.width == 0) continue;
        std::memcpy(q, part.data + BatchRowOf(i) * part.width,
                    static_cast<size_t>(part.width) * sizeof(float));
        q += part.width;
      }
    }
  }

  void Prefetch(const Columns& columns, int64_t begin, int64_t end) const {
    const int64_t bytes = columns.head_bytes() * task_.kv_heads;
    for (int64_t j = begin; j < std::min(end, keys_.end); ++j) {
      const auto* row = static_cast<const char*>(Row(columns, j, task_.kv_head));
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
    }
  }

  // fn(Range) for each run of keys_ that lies in one block of `columns`.
  template <class Fn>
  void ForBlocks(const Columns& columns, const Fn& fn) const {
    const int64_t tokens = columns.kv.block_tokens();
    for (int64_t j = keys_.begin; j < keys_.end;) {
      const int64_t end = std::min(keys_.end, (j / tokens + 1) * tokens);
      Prefetch(columns, end, end + tokens);
      fn(Range{j, end});
      j = end;
    }
  }

  void Scores() {
    ForBlocks(plan_.k, [&](Range keys) {
      for (int64_t h = 0; h < task_.kv_heads; ++h) {
        micro_.dot[0][plan_.k.is_bf16()]({.x = q_ + h * task_.rows * plan_.k.width,
                                          .x_stride = plan_.k.width,
                                          .rows = task_.rows,
                                          .w = Row(plan_.k, keys.begin, task_.kv_head + h),
                                          .w_stride = plan_.k.kv.width(),
                                          .outputs = keys.end - keys.begin,
                                          .width = plan_.k.width,
                                          .y = ScoresOf(h * task_.rows) + keys.begin - keys_.begin,
                                          .y_stride = stride_});
      }
    });
  }

  void Values() {
    ForBlocks(plan_.v, [&](Range block) {
      for (int64_t h = 0; h < task_.kv_heads; ++h) ValuesOfHead(h, block);
    });
  }

  // Rows that see the same part of the block go through it together; each sums its keys in order.
  void ValuesOfHead(int64_t h, Range block) {
    const auto seen = [&](int64_t row) {
      const Range range = RangeOf(row);
      return Range{std::max(range.begin, block.begin), std::min(range.end, block.end)};
    };
    for (int64_t row = 0; row < task_.rows;) {
      const Range range = seen(row);
      int64_t end = row + 1;
      while (end < task_.rows && seen(end) == range) ++end;
      const int64_t query = h * task_.rows + row;
      if (range.begin < range.end) {
        micro_.weighted[plan_.v.is_bf16()]({.p = ScoresOf(query) + range.begin - keys_.begin,
                                            .p_stride = stride_,
                                            .rows = end - row,
                                            .v = Row(plan_.v, range.begin, task_.kv_head + h),
                                            .v_stride = plan_.v.kv.width(),
                                            .count = range.end - range.begin,
                                            .out = sums_ + query * plan_.v.width,
                                            .out_stride = plan_.v.width,
                                            .width = plan_.v.width});
      }
      row = end;
    }
  }

  const Micro& micro_;
  const Plan& plan_;
  const Task& task_;
  Range keys_;  // of all rows together
  int64_t stride_ = 0;
  float* scores_ = nullptr;  // [queries, stride_]
  float* q_ = nullptr;       // [queries, k.width]
  float* sums_ = nullptr;    // [queries, v.width]
};

// Keys that the rows of a task over this sequence see together, at most.
int64_t KeysMax(const Plan& plan, const AttentionSequence& sequence) {
  const int64_t keys = sequence.first_position + sequence.row_count;
  return plan.window > 0 ? std::min(keys, plan.window + kTaskRows) : keys;
}

// Queries of a task over this sequence that fit `floats` of scratch.
int64_t QueriesFitting(const Plan& plan, const AttentionSequence& sequence, int64_t floats) {
  const int64_t query = RoundUp(KeysMax(plan, sequence), 16) + plan.k.width + plan.v.width;
  const int64_t queries = (floats - 48) / query;  // each of three arrays is rounded up to 64 bytes
  CHOIR_CHECK(queries >= 1);
  return std::min(queries, kTaskRows);
}

// As many rows of one kv head as a task may have, then as many kv heads, but one task a thread at
// least.
void AddTasks(const Plan& plan, const AttentionSequence& s, int64_t fitting, int64_t wanted,
              std::vector<Task>& tasks) {
  const int64_t rows = s.row_count * plan.group();
  const int64_t most = std::min(fitting, std::max(wanted, kLeastRows));
  const int64_t blocks = CeilDiv(rows, most);
  const int64_t height = CeilDiv(rows, blocks);
  const int64_t heads = std::clamp<int64_t>(std::min(fitting, wanted) / height, 1, plan.kv_heads);
  for (int64_t b = blocks - 1; b >= 0; --b) {  // late rows see most keys: first, to end together
    const int64_t begin = rows * b / blocks;
    const int64_t count = rows * (b + 1) / blocks - begin;
    for (int64_t h = 0; h < plan.kv_heads; h += heads) {
      tasks.push_back({&s, h, std::min(heads, plan.kv_heads - h), begin, count});
    }
  }
}

void Attention(const Micro& micro, const Plan& plan, const Stream& stream) {
  CHOIR_CHECK(plan.kv_heads > 0 && plan.heads % plan.kv_heads == 0);
  const int threads = TeamSize(stream);
  const size_t part_bytes = stream.workspace.size() / static_cast<size_t>(threads) / 64 * 64;
  int64_t queries = 0;
  int64_t work = 0;
  for (const AttentionSequence& s : plan.sequences) {
    queries += s.row_count * plan.heads;
    work += s.row_count * plan.heads * KeysMax(plan, s);
  }
  const int64_t wanted = std::min(CeilDiv(queries, threads), kTaskRows);
  std::vector<Task> tasks;
  for (const AttentionSequence& s : plan.sequences) {
    if (s.row_count == 0) continue;
    AddTasks(plan, s, QueriesFitting(plan, s, static_cast<int64_t>(part_bytes / 4)), wanted, tasks);
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
