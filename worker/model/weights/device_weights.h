// Weights on their way to a device that does not read the host's memory: how much they take there,
// and the copy.
#pragma once

#include <cstddef>

#include "common/base/status.h"
#include "worker/device/device.h"
#include "worker/model/weights/bind_weights.h"
#include "worker/model/weights/model_weights.h"

namespace choir {

// Empties the views of experts that are not `own`: files may hold what no rank here computes with.
void ForgetOtherExperts(ExpertRange own, ModelWeights* weights);

// Bytes that MoveToDevice will allocate.
size_t DeviceBytesOf(const ModelWeights& weights);

// Copies every tensor to memory of `device`, in the order of the layers, one that is used twice
// once; the views then point there. The memory is the caller's to keep. On an error the views are
// of no use. REQUIRES: the weights are loaded.
StatusOr<DeviceBuffer> MoveToDevice(Device* device, ModelWeights* weights);

}  // namespace choir
