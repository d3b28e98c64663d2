#include "worker/model/weights/device_weights.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <utility>

#include "worker/device/measuring_device.h"

namespace choir {
namespace {

constexpr size_t kPartBytes = size_t{16} << 20;

template <class Use>
void EachOf(LinearWeights& w, const Use& use) {
  for (TensorView* t : {&w.w, &w.scale, &w.bias}) use(t);
}

template <class Use>
void EachOf(FfnWeights& w, const Use& use) {
  for (LinearWeights* linear : {&w.gate, &w.up, &w.down}) EachOf(*linear, use);
}

template <class Use>
void EachOf(GqaWeights& w, const Use& use) {
  for (LinearWeights* linear : {&w.q, &w.k, &w.v, &w.o}) EachOf(*linear, use);
  for (TensorView* t : {&w.q_norm, &w.k_norm, &w.sinks}) use(t);
}

template <class Use>
void EachOf(MlaWeights& w, const Use& use) {
  for (LinearWeights* linear : {&w.q_a, &w.q, &w.kv_a, &w.o}) EachOf(*linear, use);
  for (TensorView* t : {&w.q_a_norm, &w.kv_a_norm, &w.kv_b}) use(t);
}

template <class Use>
void EachOf(ExpertWeights& w, const Use& use) {
  for (TensorView* t : {&w.gate, &w.up, &w.down, &w.gate_scale, &w.up_scale, &w.down_scale,
                        &w.gate_bias, &w.down_bias}) {
    use(t);
  }
}

template <class Use>
void EachOf(MoeWeights& w, const Use& use) {
  for (TensorView* t : {&w.router, &w.router_bias, &w.correction_bias}) use(t);
  if (w.shared) EachOf(*w.shared, use);
  for (ExpertWeights& expert : w.experts) EachOf(expert, use);
}

// Calls use(TensorView*) for every tensor that is there.
template <class Use>
void EachTensor(ModelWeights& w, const Use& use_any) {
  const auto use = [&](TensorView* t) {
    if (!t->empty()) use_any(t);
  };
  for (TensorView* t : {&w.embedding, &w.final_norm, &w.head}) use(t);
  for (LayerWeights& layer : w.layers) {
    for (TensorView* t : {&layer.attention_norm, &layer.ffn_norm}) use(t);
    if (layer.gqa) EachOf(*layer.gqa, use);
    if (layer.mla) EachOf(*layer.mla, use);
    if (layer.dense) EachOf(*layer.dense, use);
    if (layer.moe) EachOf(*layer.moe, use);
  }
}

// Where each tensor goes: by its place on the host, bytes from the begin.
struct Layout {
  std::map<std::pair<const void*, size_t>, size_t> begins;
  size_t bytes = 0;
};

Layout LayoutOf(ModelWeights& weights) {
  Layout layout;
  EachTensor(weights, [&](const TensorView* t) {
    if (layout.begins.insert({{t->raw(), t->num_bytes()}, layout.bytes}).second) {
      layout.bytes += AlignedBytes(t->num_bytes());
    }
  });
  return layout;
}

TensorView MovedTo(std::byte* to, const TensorView& t) {
  void* const at = to;
  switch (t.rank()) {
    case 1:
      return TensorView(at, t.dtype(), {t.dim(0)});
    case 2:
      return TensorView(at, t.dtype(), {t.dim(0), t.dim(1)});
    default:
      CHOIR_CHECK(t.rank() == 3);
      return TensorView(at, t.dtype(), {t.dim(0), t.dim(1), t.dim(2)});
  }
}

// Through two parts of pinned memory: one is filled while the other is on its way.
class Uploader {
 public:
  static StatusOr<Uploader> Make(Device* device) {
    Uploader u;
    u.device_ = device;
    for (DeviceBuffer& part : u.parts_) {
      CHOIR_ASSIGN_OR_RETURN(part, device->AllocateHost(kPartBytes));
    }
    return u;
  }
  Status Copy(std::byte* to, const TensorView& t) {
    const auto* from = static_cast<const std::byte*>(t.raw());
    for (size_t at = 0; at < t.num_bytes(); at += kPartBytes) {
      const size_t bytes = std::min(kPartBytes, t.num_bytes() - at);
      if (filled_ + bytes > kPartBytes) CHOIR_RETURN_IF_ERROR(NextPart());
      std::byte* part = parts_[current_].data() + filled_;
      std::memcpy(part, from + at, bytes);
      device_->Copy(to + at, part, bytes);
      filled_ += bytes;
    }
    return {};
  }

 private:
  // The other part's copies were enqueued before this part's: waiting when both are full frees
  // both.
  Status NextPart() {
    if (current_ == 1) CHOIR_RETURN_IF_ERROR(device_->Wait());
    current_ = 1 - current_;
    filled_ = 0;
    return {};
  }

  Device* device_ = nullptr;
  std::array<DeviceBuffer, 2> parts_;
  size_t current_ = 0, filled_ = 0;
};

}  // namespace

void ForgetOtherExperts(ExpertRange own, ModelWeights* weights) {
  for (LayerWeights& layer : weights->layers) {
    if (!layer.moe) continue;
    for (size_t e = 0; e < layer.moe->experts.size(); ++e) {
      if (!own.Has(static_cast<int64_t>(e))) layer.moe->experts[e] = ExpertWeights{};
    }
  }
}

size_t DeviceBytesOf(const ModelWeights& weights) {
  ModelWeights views = weights;
  return LayoutOf(views).bytes;
}

StatusOr<DeviceBuffer> MoveToDevice(Device* device, ModelWeights* weights) {
  const Layout layout = LayoutOf(*weights);
  CHOIR_ASSIGN_OR_RETURN(DeviceBuffer memory, device->Allocate(layout.bytes));
  CHOIR_ASSIGN_OR_RETURN(Uploader uploader, Uploader::Make(device));
  Status status;
  size_t copied = 0;
  EachTensor(*weights, [&](TensorView* t) {
    const size_t begin = layout.begins.at({t->raw(), t->num_bytes()});
    std::byte* to = memory.data() + begin;
    if (begin >= copied && status.ok()) {  // the first time that it comes
      status = uploader.Copy(to, *t);
      copied = begin + AlignedBytes(t->num_bytes());
    }
    *t = MovedTo(to, *t);
  });
  CHOIR_RETURN_IF_ERROR(status);
  CHOIR_RETURN_IF_ERROR(device->Wait());
  return memory;
}

}  // namespace choir
