// Wire messages to the router's own values and back. Pure.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "choir/v1/edge.pb.h"
#include "choir/v1/inference.pb.h"
#include "choir/v1/worker.pb.h"
#include "router/core/api.h"
#include "router/core/router_core.h"

namespace choir {

SamplingInput FromProto(const v1::Sampling& sampling);
RequestInput FromProto(v1::GenerateRequest&& request);
RequestInput FromProto(v1::ChatRequest&& request);
RequestInput FromProto(v1::EdgeOpen&& open);
AttachInput AttachFromProto(const v1::EdgeOpen& open);

void ToProto(ChoiceDelta&& delta, v1::GenerateEvent* event);
void ToProto(const Usage& usage, v1::Usage* out);
void ToProto(const ApiError& error, const FailedInfo& info, v1::EdgeError* out);
void ToProto(const std::vector<LimitReading>& limits,
             google::protobuf::RepeatedPtrField<v1::EdgeLimit>* out);
void ToProto(const AcceptedInfo& info, bool with_prompt, v1::EdgeAccepted* out);
void ToProto(const RouterCore::ModelInfo& info, v1::Model* out);
void ToProto(SequenceSubmit&& submit, v1::SubmitSequence* out);

WorkerIdentity FromProto(const v1::WorkerHello& hello);
WorkerStateReport FromProto(const v1::WorkerState& state);
// Whether a worker may say this: sizes, ranges and lengths that belong together. What follows may
// rely on it. `vocab_size` as its hello said; 0: not known.
Status CheckFromWorker(const v1::FromWorker& message, uint32_t vocab_size);
StepReport FromProto(const v1::StepResult& step);

// The error as a gRPC status with google.rpc ErrorInfo and, where waiting helps, RetryInfo. An
// empty `request_id` is left out.
grpc::Status ToGrpcStatus(const ApiError& error, const std::string& request_id = "");

// How a request would be placed, or why it would be refused, as a new entry of `down`.
const v1::EdgeExplained& AddExplained(uint64_t id,
                                      const std::variant<std::string, ApiError>& explained,
                                      v1::EdgeDown* down);

}  // namespace choir
