// Between edge.proto and the gateway's plain values.
#pragma once

#include <string>

#include "choir/v1/edge.pb.h"
#include "gateway/rpc/edge_client.h"

namespace choir {

void FillOpen(uint64_t id, const EdgeOpenInfo& info, v1::EdgeOpen* open);
void FillRequest(const ApiRequest& request, size_t prompt, v1::EdgeOpen* open);
void FillAttach(const std::string& request_id, const StreamPosition& position,
                v1::EdgeAttach* attach);
RestError ToRestError(const v1::EdgeError& error);
EdgeAcceptedInfo ToAccepted(const v1::EdgeAccepted& accepted);
// As x-ratelimit-reset shows it: "1.5s", whole milliseconds, never less than it is.
std::string SecondsText(double seconds);
ApiDelta ToDelta(const v1::GenerateEvent& event);
ApiUsage ToUsage(const v1::Usage& usage);

}  // namespace choir
