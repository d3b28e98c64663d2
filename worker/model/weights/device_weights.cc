#include "worker/model/weights/device_weights.h"

#include <algorithm>
#include <concepts>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "worker/device/measuring_device.h"
#include "worker/model/weights/device_loader.h"

namespace choir {
namespace {

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

template <class Experts, class Use>
requires std::same_as<std::remove_const_t<Experts>, ExpertWeights>
void EachOf(Experts& w, const Use& use) {
  for (auto* t : {&w.gate, &w.up, &w.down, &w.gate_scale, &w.up_scale, &w.down_scale, &w.gate_bias,
                  &w.down_bias}) {
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

using Places = std::map<const std::byte*, WeightStore::Place>;

// Where the bytes of a view come from: its file, or the host's memory.
LoadPart SourceOf(const Places& places, const std::byte* data, size_t bytes) {
  LoadPart part{.memory = data, .bytes = bytes};
  auto place = places.upper_bound(data);
  if (place == places.begin()) return part;
  --place;
  const auto offset = static_cast<uint64_t>(data - place->first);
  if (offset + bytes > place->second.bytes) return part;
  return {.tensor = place->second.tensor, .begin = place->second.begin + offset, .bytes = bytes};
}

// What is to be read, in the order of the files; then what is in the host's memory already.
std::vector<LoadPart> PartsOf(const Layout& layout, const WeightStore* store, std::byte* memory) {
  const Places places = store == nullptr ? Places() : store->MappedPlaces();
  std::vector<LoadPart> parts;
  for (const auto& [view, begin] : layout.begins) {
    LoadPart part = SourceOf(places, static_cast<const std::byte*>(view.first), view.second);
    part.to = memory + begin;
    parts.push_back(part);
  }
  const auto order = [](const LoadPart& p) {
    return p.tensor == nullptr
               ? std::tuple(true, std::string(), uint64_t{0})
               : std::tuple(false, p.tensor->file->path(), p.tensor->info.offset + p.begin);
  };
  std::stable_sort(parts.begin(), parts.end(),
                   [&](const LoadPart& a, const LoadPart& b) { return order(a) < order(b); });
  return parts;
}

}  // namespace

void ForgetOtherExperts(ExpertRange own, const HostExperts& host, ModelWeights* weights) {
  for (size_t l = 0; l < weights->layers.size(); ++l) {
    std::optional<MoeWeights>& moe = weights->layers[l].moe;
    if (!moe) continue;
    own.without = host.Of(l);
    for (size_t e = 0; e < moe->experts.size(); ++e) {
      if (!own.Has(static_cast<int64_t>(e))) moe->experts[e] = ExpertWeights{};
    }
  }
}

size_t DeviceBytesOf(const ModelWeights& weights) {
  ModelWeights views = weights;
  return LayoutOf(views).bytes;
}

StatusOr<DeviceBuffer> LoadOnDevice(
    Device* device, const WeightStore* store, ModelWeights* weights,
    const std::function<void(int64_t done, int64_t total)>& progress) {
  const Layout layout = LayoutOf(*weights);
  CHOIR_ASSIGN_OR_RETURN(DeviceBuffer memory, device->Allocate(layout.bytes));
  const std::vector<LoadPart> parts = PartsOf(layout, store, memory.data());
  int64_t total = store == nullptr ? 0 : store->conversion_bytes(), done = 0;
  for (const LoadPart& part : parts) total += static_cast<int64_t>(part.bytes);
  const auto advance = [&](uint64_t bytes) {
    done += static_cast<int64_t>(bytes);
    if (progress) progress(done, total);
  };
  if (store != nullptr) CHOIR_RETURN_IF_ERROR(store->Convert(advance));
  CHOIR_RETURN_IF_ERROR(DeviceLoader(device, LoadThreads()).Run(parts, advance));
  EachTensor(*weights, [&](TensorView* t) {
    *t = MovedTo(memory.data() + layout.begins.at({t->raw(), t->num_bytes()}), *t);
  });
  return memory;
}

size_t DeviceBytesOf(const ExpertWeights& weights) {
  size_t bytes = 0;
  EachOf(weights,
         [&](const TensorView* t) { bytes += t->empty() ? 0 : AlignedBytes(t->num_bytes()); });
  return bytes;
}

ExpertWeights MovedTo(std::byte* memory, const ExpertWeights& like) {
  ExpertWeights moved = like;
  EachOf(moved, [&](TensorView* t) {
    if (t->empty()) return;
    *t = MovedTo(memory, *t);
    memory += AlignedBytes(t->num_bytes());
  });
  return moved;
}

Status LoadInto(DeviceLoader* loader, const WeightStore& store, const ExpertWeights& weights,
                const ExpertWeights& to) {
  std::vector<std::byte*> places;
  EachOf(to, [&](const TensorView* t) { places.push_back(static_cast<std::byte*>(t->raw())); });
  const Places sources = store.MappedPlaces();
  std::vector<LoadPart> parts;
  size_t i = 0;
  EachOf(weights, [&](const TensorView* t) {
    std::byte* const place = places[i++];
    if (t->empty()) return;
    LoadPart part = SourceOf(sources, static_cast<const std::byte*>(t->raw()), t->num_bytes());
    part.to = place;
    parts.push_back(part);
  });
  CHOIR_RETURN_IF_ERROR(store.Convert([](uint64_t) {}, /*threads=*/1));
  return loader->Run(parts, [](uint64_t) {});
}

}  // namespace choir
