// The exchange of ranks whose rows go from device to device (Collectives::device). Counts and
// headers, which are small, go by the collectives of the hosts; the host waits once a layer, for
// its own choices of experts.
//
// Steps of few rows (decode) go in equal slots instead: each rank sends all its rows and choices to
// all ranks, before its host knows them, and each plans from the choices of all. That is more bytes
// and one wait without anything between it and the device. Outputs return as in the other form.
//
// Steps of many rows (prefill) may be computed as two micro-batches, each with an exchange and a
// room of its own: rows of one travel on the link's stream while the other's are computed.
// Private to worker/model: exchange_maker.h.
#pragma once

#include <memory>

#include "worker/model/exchange_maker.h"

namespace choir {

// Of the second of two micro-batches.
ExchangeLimits SecondLimits(ExchangeLimits limits);

// All of the parts and `collectives`, which have a device(), outlive the exchange.
std::unique_ptr<ExpertExchange> MakeDirectExchange(Collectives* collectives,
                                                   const ExchangeLimits& limits,
                                                   const DeviceExchangeParts& parts);

}  // namespace choir
