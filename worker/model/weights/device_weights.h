// Weights of a device that does not read the host's memory: how much they take there, and how they
// come there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "common/base/status.h"
#include "worker/device/device.h"
#include "worker/model/weights/bind_weights.h"
#include "worker/model/weights/device_loader.h"
#include "worker/model/weights/model_weights.h"

namespace choir {

// Empties the views of experts that are not `own`, or the host's: files may hold what is computed
// elsewhere.
void ForgetOtherExperts(ExpertRange own, const HostExperts& host, ModelWeights* weights);

// Bytes that LoadOnDevice will allocate.
size_t DeviceBytesOf(const ModelWeights& weights);

// Brings every tensor to memory of `device`, one that is used twice once; the views then point
// there. What `store` has mapped is read from its files by several threads and checked, what it
// converts is converted first; without a store all is in the host's memory. The memory is the
// caller's to keep. After an error the views are of no use.
StatusOr<DeviceBuffer> LoadOnDevice(
    Device* device, const WeightStore* store, ModelWeights* weights,
    const std::function<void(int64_t done, int64_t total)>& progress);

// The same of one expert.
size_t DeviceBytesOf(const ExpertWeights& weights);
ExpertWeights MovedTo(std::byte* memory, const ExpertWeights& like);
// `weights`, bound by `store`, to where the views of `to` are, which have the same shapes.
Status LoadInto(DeviceLoader* loader, const WeightStore& store, const ExpertWeights& weights,
                const ExpertWeights& to);

}  // namespace choir
