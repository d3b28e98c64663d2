// Between edge.proto and the gateway's plain values.
#pragma once

#include "choir/v1/edge.pb.h"
#include "gateway/rpc/edge_client.h"

namespace choir {

void FillOpen(uint64_t id, const ApiRequest& request, const EdgeOpenInfo& info, v1::EdgeOpen* open);
ApiError ToApiError(const v1::EdgeError& error);
EdgeAcceptedInfo ToAccepted(const v1::EdgeAccepted& accepted);
ApiDelta ToDelta(const v1::GenerateEvent& event);
ApiUsage ToUsage(const v1::Usage& usage);

}  // namespace choir
