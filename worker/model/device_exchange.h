// The exchange of ranks whose rows lie in the memory of a device. Own rows never leave it; rows for
// other ranks come to the host packed, in the order of their messages, and go on by the collectives
// of the hosts. Private to worker/model: exchange_maker.h.
#pragma once

#include <memory>

#include "worker/model/exchange_maker.h"

namespace choir {

// All of the parts and `collectives` outlive the exchange.
std::unique_ptr<ExpertExchange> MakeDeviceExchange(Collectives* collectives,
                                                   const ExchangeLimits& limits,
                                                   const DeviceExchangeParts& parts);

}  // namespace choir
