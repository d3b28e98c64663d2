#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/reference_kernels.h"

namespace choir::reference {
namespace {

// Element (position, column) of a sequence's part of the pool.
double KvAt(const KvView& kv, const int32_t* block_table, int64_t position, int64_t column) {
  const int64_t block = block_table[position / kv.block_tokens()];
  CHOIR_CHECK(block >= 0 && block < kv.data.dim(0));
  const int64_t row = block * kv.block_tokens() + position % kv.block_tokens();
  return At(kv.data, row * kv.width() + column);
}

// Softmax of the scores in place; `sink` is one more logit, whose probability is dropped.
void Softmax(std::vector<double>& scores, double sink) {
  double top = sink;
  for (const double s : scores) top = std::max(top, s);
  double sum = std::isinf(sink) ? 0.0 : std::exp(sink - top);
  for (double& s : scores) {
    s = std::exp(s - top);
    sum += s;
  }
  for (double& s : scores) s /= sum;
}

constexpr double kNoSink = -std::numeric_limits<double>::infinity();

}  // namespace

void ReferenceKernels::StoreKv(const StoreKvArgs& a, const Stream&) const {
  const int64_t width = a.x.dim(1);
  const int64_t stride = a.x_stride != 0 ? a.x_stride : width;
  CHOIR_CHECK(a.kv_column + width <= a.kv.width());
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    const int64_t slot = a.slots[static_cast<size_t>(t)];
    CHOIR_CHECK(slot >= 0 && slot < a.kv.data.dim(0) * a.kv.block_tokens());
    for (int64_t i = 0; i < width; ++i) {
      const float value = a.x.f32()[t * stride + i];
      const int64_t at = slot * a.kv.width() + a.kv_column + i;
      if (a.kv.data.dtype() == DType::kBF16) {
        a.kv.data.b16()[at] = ToBF16(value);
      } else {
        a.kv.data.f32()[at] = value;
      }
    }
  }
}

void ReferenceKernels::PagedAttention(const PagedAttentionArgs& a, const Stream&) const {
  const int64_t heads = a.q.dim(1);
  const int64_t head_dim = a.q.dim(2);
  const int64_t v_dim = a.out.dim(2);
  const int64_t group = heads / a.kv_heads;
  CHOIR_CHECK(a.k.width() == a.kv_heads * head_dim && a.v.width() == a.kv_heads * v_dim);
  std::vector<double> scores;
  for (const AttentionSequence& s : a.sequences) {
    for (int64_t row = 0; row < s.row_count * heads; ++row) {
      const int64_t h = row % heads;
      const int64_t kv_head = h / group;
      const int64_t position = s.first_position + row / heads;
      const int64_t begin = a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0;
      const float* q = a.q.f32() + (s.row_begin * heads + row) * head_dim;
      scores.clear();
      for (int64_t j = begin; j <= position; ++j) {
        double dot = 0.0;
        for (int64_t i = 0; i < head_dim; ++i) {
          dot += q[i] * KvAt(a.k, s.block_table, j, kv_head * head_dim + i);
        }
        scores.push_back(dot * a.scale);
      }
      Softmax(scores, a.sinks.empty() ? kNoSink : static_cast<double>(a.sinks.f32()[h]));
      for (int64_t i = 0; i < v_dim; ++i) {
        double sum = 0.0;
        for (int64_t j = begin; j <= position; ++j) {
          sum += scores[static_cast<size_t>(j - begin)] *
                 KvAt(a.v, s.block_table, j, kv_head * v_dim + i);
        }
        a.out.f32()[(s.row_begin * heads + row) * v_dim + i] = static_cast<float>(sum);
      }
    }
  }
}

void ReferenceKernels::MlaAttention(const MlaAttentionArgs& a, const Stream&) const {
  const int64_t heads = a.q_latent.dim(1);
  const int64_t lora = a.q_latent.dim(2);
  const int64_t rope = a.q_rope.dim(2);
  CHOIR_CHECK(a.latent.width() == lora + rope);
  std::vector<double> scores;
  for (const AttentionSequence& s : a.sequences) {
    for (int64_t row = 0; row < s.row_count * heads; ++row) {
      const int64_t position = s.first_position + row / heads;
      const float* q_latent = a.q_latent.f32() + (s.row_begin * heads + row) * lora;
      const float* q_rope = a.q_rope.f32() + (s.row_begin * heads + row) * rope;
      scores.clear();
      for (int64_t j = 0; j <= position; ++j) {
        double dot = 0.0;
        for (int64_t i = 0; i < lora; ++i) dot += q_latent[i] * KvAt(a.latent, s.block_table, j, i);
        for (int64_t i = 0; i < rope; ++i) {
          dot += q_rope[i] * KvAt(a.latent, s.block_table, j, lora + i);
        }
        scores.push_back(dot * a.scale);
      }
      Softmax(scores, kNoSink);
      for (int64_t i = 0; i < lora; ++i) {
        double sum = 0.0;
        for (int64_t j = 0; j <= position; ++j) {
          sum += scores[static_cast<size_t>(j)] * KvAt(a.latent, s.block_table, j, i);
        }
        a.out.f32()[(s.row_begin * heads + row) * lora + i] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace choir::reference
