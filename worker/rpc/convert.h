// Wire messages to plain values and back. Everything a peer sends is checked here.
#pragma once

#include <grpcpp/support/status.h>

#include "choir/v1/control.pb.h"
#include "choir/v1/worker.pb.h"
#include "common/base/status.h"
#include "worker/engine/types.h"
#include "worker/group/membership.h"

namespace choir {

struct SubmitLimits {
  int32_t vocab_size = 0;
  int64_t context_length = 0;
};

inline constexpr int kBiasMax = 4096;
inline constexpr int kStopIdsMax = 1024;
inline constexpr int kLogprobsMax = 64;
inline constexpr size_t kCacheSaltMax = 256;  // bytes

// InvalidArgument names the field, the value and its limit.
StatusOr<SequenceRequest> FromWire(const v1::SubmitSequence& wire, const SubmitLimits& limits);
void ToWire(const SequenceOutput& update, uint64_t router_id, v1::SequenceUpdate* wire);
void ToWire(const EngineLoad& load, v1::WorkerLoad* wire);

MemberHello FromWire(const v1::JoinHello& wire);
void ToWire(const MemberHello& hello, v1::JoinHello* wire);
ExchangeEndpoint FromWire(const v1::Endpoint& wire);
void ToWire(const ExchangeEndpoint& endpoint, v1::Endpoint* wire);
EpochPlan FromWire(const v1::EpochPlan& wire);
void ToWire(const EpochPlan& plan, v1::EpochPlan* wire);
DrainStage FromWire(v1::DrainStage wire);
v1::DrainStage ToWire(DrainStage stage);

grpc::Status ToWire(const Status& status);
Status FromWire(const grpc::Status& status);

}  // namespace choir
