// Memory of a device for experts that come and go while steps are computed (docs/decisions/0040). A
// slot holds one expert, and what it last held until something else is read into it. The slots are
// the memory of the experts loaded at the start, and as many more as ExtraBytes has room for, so
// that all that a rank may hold and what one move reads fit at once.
//
// Owned by the model; any thread. Reading uses a lane of its own; what it brought is there when it
// returns. A slot's memory may be written again as soon as nobody holds it: who gives it back has
// waited for the work that reads it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <vector>

#include "common/base/status.h"
#include "worker/device/device.h"
#include "worker/model/placed_experts.h"
#include "worker/model/weights/device_loader.h"
#include "worker/model/weights/model_weights.h"
#include "worker/model/weights/weight_store.h"

namespace choir {

class ExpertRoom {
 public:
  // An expert in a slot, and what keeps it there.
  struct Held {
    ExpertWeights weights;
    std::shared_ptr<const void> memory;
  };

  // Bytes beyond the weights of the start, of which `weights` has views or sizes.
  static size_t ExtraBytes(const ModelWeights& weights, int32_t redundant);
  // `weights` are on the device. The device outlives the room.
  static StatusOr<std::unique_ptr<ExpertRoom>> Make(Device* device, const ModelWeights& weights,
                                                    int32_t redundant);

  // Nothing: it is in no slot.
  std::optional<Held> TryHold(size_t layer, int64_t expert);
  // Brings it from the files, where `store` has bound its `weights`. Waits for a slot if none is
  // free. Cancelled: `stop` was asked for.
  StatusOr<Held> Read(size_t layer, int64_t expert, const WeightStore& store,
                      const ExpertWeights& weights, const std::stop_token& stop);

 private:
  struct Slot {
    ExpertWeights memory;  // views of it
    size_t layer = 0;
    int64_t expert = -1;  // what is in it; -1: nothing of use
    bool held = false;
    std::weak_ptr<const void> holder;
    uint64_t freed = 0;  // when, in turn
  };
  struct Slots {
    std::mutex mu;  // guards what follows
    std::condition_variable_any changed;
    std::vector<Slot> all;
    uint64_t turn = 0;
  };

  explicit ExpertRoom(Device* device)
      : device_(device), loader_(device, /*threads=*/1), slots_(std::make_shared<Slots>()) {}
  Held Hold(size_t slot);
  StatusOr<size_t> TakeSlot(const ExpertWeights& like, const std::stop_token& stop);

  Device* const device_;
  DeviceBuffer extra_;
  std::mutex loading_;  // guards loader_
  DeviceLoader loader_;
  const std::shared_ptr<Slots> slots_;
};

}  // namespace choir
