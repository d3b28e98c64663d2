#include "worker/model/weights/expert_room.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "common/base/check.h"
#include "worker/model/weights/device_weights.h"

namespace choir {
namespace {

constexpr std::chrono::seconds kSlotTimeout{30};  // for what another thread gives back

// Whether an expert like `a` fits where one like `b` was.
bool SameShape(const ExpertWeights& a, const ExpertWeights& b) {
  const auto of = [](const ExpertWeights& w) {
    return std::array{w.gate,     w.up,         w.down,      w.gate_scale,
                      w.up_scale, w.down_scale, w.gate_bias, w.down_bias};
  };
  const auto x = of(a), y = of(b);
  return std::equal(x.begin(), x.end(), y.begin(), [](const TensorView& s, const TensorView& t) {
    return s.empty() == t.empty() &&
           (s.empty() || (s.dtype() == t.dtype() && s.num_bytes() == t.num_bytes()));
  });
}

const ExpertWeights* AnyExpert(const MoeWeights& moe) {
  const auto it = std::find_if(moe.experts.begin(), moe.experts.end(),
                               [](const ExpertWeights& e) { return !e.gate.empty(); });
  return it == moe.experts.end() ? nullptr : &*it;
}

// One of each kind of slot that is wanted beyond the first experts: `redundant` of each layer, and
// of each shape what one move reads.
std::vector<const ExpertWeights*> ExtraSlots(const ModelWeights& weights, int32_t redundant) {
  std::vector<const ExpertWeights*> slots, shapes;
  if (redundant == 0) return slots;
  for (const LayerWeights& layer : weights.layers) {
    const ExpertWeights* like = layer.moe ? AnyExpert(*layer.moe) : nullptr;
    if (like == nullptr) continue;
    slots.insert(slots.end(), static_cast<size_t>(redundant), like);
    const bool known = std::any_of(shapes.begin(), shapes.end(),
                                   [&](const ExpertWeights* s) { return SameShape(*s, *like); });
    if (known) continue;
    shapes.push_back(like);
    slots.insert(slots.end(), kDeviceMovesMax, like);
  }
  return slots;
}

}  // namespace

size_t ExpertRoom::ExtraBytes(const ModelWeights& weights, int32_t redundant) {
  size_t bytes = 0;
  for (const ExpertWeights* like : ExtraSlots(weights, redundant)) bytes += DeviceBytesOf(*like);
  return bytes;
}

StatusOr<std::unique_ptr<ExpertRoom>> ExpertRoom::Make(Device* device, const ModelWeights& weights,
                                                       int32_t redundant) {
  std::unique_ptr<ExpertRoom> room(new ExpertRoom(device));
  std::vector<Slot>& slots = room->slots_->all;
  for (size_t l = 0; l < weights.layers.size(); ++l) {
    if (!weights.layers[l].moe) continue;
    const std::vector<ExpertWeights>& experts = weights.layers[l].moe->experts;
    for (size_t e = 0; e < experts.size(); ++e) {
      if (experts[e].gate.empty()) continue;
      slots.push_back({.memory = experts[e], .layer = l, .expert = static_cast<int64_t>(e)});
    }
  }
  CHOIR_ASSIGN_OR_RETURN(room->extra_, device->Allocate(ExtraBytes(weights, redundant)));
  std::byte* at = room->extra_.data();
  for (const ExpertWeights* like : ExtraSlots(weights, redundant)) {
    slots.push_back({.memory = MovedTo(at, *like)});
    at += DeviceBytesOf(*like);
  }
  CHOIR_RETURN_IF_ERROR(room->loader_.Allocate());
  return room;
}

// REQUIRES: the lock; the slot is nobody's, or still its holder's.
ExpertRoom::Held ExpertRoom::Hold(size_t slot) {
  Slot& s = slots_->all[slot];
  std::shared_ptr<const void> memory = s.holder.lock();
  if (memory == nullptr) {
    memory = std::shared_ptr<const void>(&s.memory, [slots = slots_, slot](const void*) {
      const std::lock_guard lock(slots->mu);
      slots->all[slot].holder.reset();  // it would keep this function, and that the slots
      slots->all[slot].held = false;
      slots->all[slot].freed = ++slots->turn;
      slots->changed.notify_all();
    });
    s.holder = memory;
    s.held = true;
  }
  return {s.memory, std::move(memory)};
}

std::optional<ExpertRoom::Held> ExpertRoom::TryHold(size_t layer, int64_t expert) {
  std::unique_lock lock(slots_->mu);
  for (size_t i = 0; i < slots_->all.size(); ++i) {
    Slot& s = slots_->all[i];
    if (s.layer != layer || s.expert != expert) continue;
    // Its last holder may be about to give it back.
    slots_->changed.wait(lock, [&s] { return !s.held || !s.holder.expired(); });
    if (s.layer == layer && s.expert == expert) return Hold(i);
  }
  return std::nullopt;
}

// A free slot of that shape: one with nothing of use, else the one free for longest.
StatusOr<size_t> ExpertRoom::TakeSlot(const ExpertWeights& like, const std::stop_token& stop) {
  std::unique_lock lock(slots_->mu);
  std::optional<size_t> best;
  const auto found = [&] {
    for (size_t i = 0; i < slots_->all.size(); ++i) {
      const Slot& s = slots_->all[i];
      if (s.held || !SameShape(s.memory, like)) continue;
      const auto order = [&](size_t k) {
        return std::pair(slots_->all[k].expert >= 0, slots_->all[k].freed);
      };
      if (!best || order(i) < order(*best)) best = i;
    }
    return best.has_value();
  };
  if (!slots_->changed.wait_for(lock, stop, kSlotTimeout, found)) {
    if (stop.stop_requested()) return Cancelled("the placement of experts is given up");
    return ResourceExhausted("no slot for an expert became free on {}", device_->Name());
  }
  Slot& s = slots_->all[*best];
  s.expert = -1;
  s.held = true;
  return *best;
}

StatusOr<ExpertRoom::Held> ExpertRoom::Read(size_t layer, int64_t expert, const WeightStore& store,
                                            const ExpertWeights& weights,
                                            const std::stop_token& stop) {
  CHOIR_ASSIGN_OR_RETURN(const size_t slot, TakeSlot(weights, stop));
  Status status = device_->Use();
  if (status.ok()) {
    const std::lock_guard lock(loading_);
    status = LoadInto(&loader_, store, weights, slots_->all[slot].memory);
  }
  const std::lock_guard lock(slots_->mu);
  Slot& s = slots_->all[slot];
  s.held = false;
  slots_->changed.notify_all();
  if (!status.ok()) return status;
  s.layer = layer;
  s.expert = expert;
  return Hold(slot);
}

}  // namespace choir
