// The part of LoadModel that leaves experts of a device to the host. In this order, between the
// other steps of a load. Private to worker/model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "common/base/status.h"
#include "worker/model/loaded_model.h"

namespace choir {

// InvalidArgument: options that this model or device cannot have.
Status CheckHostExperts(const LoadOptions& options, const LoadedParts& parts);

// Whether experts are left to the host, if all that is not weights takes `beside` bytes.
StatusOr<bool> WantsHostExperts(const LoadOptions& options, const LoadedParts& parts,
                                size_t beside);
// Sets parts->host; `beside`: bytes of the device that are not for weights. REQUIRES:
// parts->weights are bound to the files.
Status ChooseHostExperts(const LoadOptions& options, size_t beside, LoadedParts* parts);
// What parts.weights without the host's take on the device.
size_t DeviceBytesWithout(const HostExperts& host, const LoadedParts& parts);

struct HostExpert {
  size_t layer = 0;  // of the model
  int64_t expert = 0;
  ExpertWeights weights;
};

// parts->weights and parts->store become those of the device alone; the experts of the host that
// this rank holds are returned, parts->host_store has their weights.
StatusOr<std::vector<HostExpert>> BindHostExperts(const LoadOptions& options, LoadedParts* parts);

// Reads them, and puts their views among parts->weights, which are on the device by now.
Status LoadHostExperts(const std::vector<HostExpert>& host,
                       const std::function<void(int64_t done, int64_t total)>& progress,
                       LoadedParts* parts);

}  // namespace choir
