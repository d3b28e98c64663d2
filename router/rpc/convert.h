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

void ToProto(ChoiceDelta&& delta, v1::GenerateEvent* event);
void ToProto(const Usage& usage, v1::Usage* out);
void ToProto(const ApiError& error, const std::string& receipt, v1::EdgeError* out);
void ToProto(const RouterCore::ModelInfo& info, v1::Model* out);
void ToProto(SequenceSubmit&& submit, v1::SubmitSequence* out);

WorkerIdentity FromProto(const v1::WorkerHello& hello);
WorkerStateReport FromProto(const v1::WorkerState& state);
StepReport FromProto(const v1::StepResult& step);

// The error as a gRPC status with google.rpc ErrorInfo and, where waiting helps, RetryInfo.
grpc::Status ToGrpcStatus(const ApiError& error);

}  // namespace choir
