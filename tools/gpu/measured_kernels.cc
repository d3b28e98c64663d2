#include "tools/gpu/measured_kernels.h"

#include "tools/gpu/must.h"

namespace choir::gpu {
namespace {

template <class Args>
Work WorkOf(const Args& a) {
  return {a.Bytes(), a.Flops()};
}

// Where only the device knows who has rows: as many experts as there are rows, at the most.
Work WorkOf(const ExpertFfnArgs& a) {
  const Work all{a.Bytes(), a.Flops()};
  const auto experts = static_cast<int64_t>(a.experts.size());
  if (a.offsets.host != nullptr || a.x.dim(0) >= experts) return all;
  const auto rows = static_cast<int64_t>(a.x.num_bytes() + a.y.num_bytes());
  return {rows + (all.bytes - rows) / experts * a.x.dim(0), all.flops};
}

}  // namespace

MeasuredKernels::~MeasuredKernels() { Forget(); }

void MeasuredKernels::Forget() {
  for (const Op& op : ops_) {
    if (op.begin == nullptr) continue;
    device_.free_event(op.begin);
    device_.free_event(op.end);
  }
  ops_.clear();
}

void MeasuredKernels::Begin(bool with_times) {
  Forget();
  with_times_ = with_times;
}

void* MeasuredKernels::Mark(const Stream& stream) const {
  void* event = nullptr;
  Must(device_.make_event(&event), "event");
  Must(device_.record(event, stream.native), "event");
  return event;
}

template <class Call>
void MeasuredKernels::Take(const char* name, const Work& work, const Stream& stream,
                           const Call& call) const {
  Op op{.name = name, .work = work};
  if (with_times_) op.begin = Mark(stream);
  call();
  if (with_times_) op.end = Mark(stream);
  ops_.push_back(op);
}

std::map<std::string, MeasuredKernels::Sum> MeasuredKernels::ByOp() {
  std::map<std::string, Sum> sums;
  for (const Op& op : ops_) {
    Sum& sum = sums[op.name];
    sum.floor_us += FloorOf(op.work, limits_).us;
    sum.bytes += op.work.bytes;
    sum.flops += op.work.flops;
    ++sum.count;
    if (op.begin == nullptr) continue;
    float ms = 0;
    Must(device_.elapsed(op.begin, op.end, &ms), "event");
    sum.us += 1e3 * static_cast<double>(ms);
  }
  return sums;
}

void MeasuredKernels::Embedding(const EmbeddingArgs& a, const Stream& s) const {
  Take("embedding, gathers", WorkOf(a), s, [&] { inner_.Embedding(a, s); });
}
void MeasuredKernels::Linear(const LinearArgs& a, const Stream& s) const {
  const char* name = a.w.dim(0) == vocab_ ? "linear (head)" : "linear";
  Take(name, WorkOf(a), s, [&] { inner_.Linear(a, s); });
}
void MeasuredKernels::MergedLinear(const MergedLinearArgs& a, const Stream& s) const {
  Take("linear, merged", WorkOf(a), s, [&] { inner_.MergedLinear(a, s); });
}
void MeasuredKernels::HeadProject(const HeadProjectArgs& a, const Stream& s) const {
  Take("head_project", WorkOf(a), s, [&] { inner_.HeadProject(a, s); });
}
void MeasuredKernels::RmsNorm(const RmsNormArgs& a, const Stream& s) const {
  Take("rms_norm", WorkOf(a), s, [&] { inner_.RmsNorm(a, s); });
}
void MeasuredKernels::Rope(const RopeArgs& a, const Stream& s) const {
  Take("rope", WorkOf(a), s, [&] { inner_.Rope(a, s); });
}
void MeasuredKernels::SwiGlu(const SwiGluArgs& a, const Stream& s) const {
  Take("swi_glu", WorkOf(a), s, [&] { inner_.SwiGlu(a, s); });
}
void MeasuredKernels::StoreKv(const StoreKvArgs& a, const Stream& s) const {
  Take("store_kv", WorkOf(a), s, [&] { inner_.StoreKv(a, s); });
}
void MeasuredKernels::StoreLatent(const StoreLatentArgs& a, const Stream& s) const {
  Take("store_latent", WorkOf(a), s, [&] { inner_.StoreLatent(a, s); });
}
void MeasuredKernels::PagedAttention(const PagedAttentionArgs& a, const Stream& s) const {
  Take("paged_attention", WorkOf(a), s, [&] { inner_.PagedAttention(a, s); });
}
void MeasuredKernels::MlaAttention(const MlaAttentionArgs& a, const Stream& s) const {
  Take("mla_attention", WorkOf(a), s, [&] { inner_.MlaAttention(a, s); });
}
void MeasuredKernels::GateTopK(const GateTopKArgs& a, const Stream& s) const {
  Take("gate_top_k", WorkOf(a), s, [&] { inner_.GateTopK(a, s); });
}
void MeasuredKernels::ExpertFfn(const ExpertFfnArgs& a, const Stream& s) const {
  Take("expert_ffn", WorkOf(a), s, [&] { inner_.ExpertFfn(a, s); });
}
void MeasuredKernels::Combine(const CombineArgs& a, const Stream& s) const {
  Take("combine", WorkOf(a), s, [&] { inner_.Combine(a, s); });
}
void MeasuredKernels::Permute(const PermuteArgs& a, const Stream& s) const {
  Take("permute", WorkOf(a), s, [&] { inner_.Permute(a, s); });
}
void MeasuredKernels::Unpermute(const UnpermuteArgs& a, const Stream& s) const {
  Take("unpermute", WorkOf(a), s, [&] { inner_.Unpermute(a, s); });
}
bool MeasuredKernels::TrySample(const SampleArgs& a, const Stream& s) const {
  bool done = false;  // its operations are integers'
  Take("sample", {a.Bytes(), 0}, s, [&] { done = inner_.TrySample(a, s); });
  return done;
}

}  // namespace choir::gpu
