#include "worker/rpc/convert.h"

#include <cmath>

namespace choir {
namespace {

Status CheckRange(const char* field, double value, double min, double max) {
  if (std::isfinite(value) && value >= min && value <= max) return absl::OkStatus();
  return InvalidArgument("{} is {}, must be from {} to {}", field, value, min, max);
}

Status CheckTokens(const v1::SubmitSequence& wire, const SubmitLimits& limits) {
  if (wire.token_ids_size() < 1 || wire.token_ids_size() > limits.context_length) {
    return InvalidArgument("{} token ids, must be from 1 to the context length {}",
                           wire.token_ids_size(), limits.context_length);
  }
  for (int i = 0; i < wire.token_ids_size(); ++i) {
    if (wire.token_ids(i) < 0 || wire.token_ids(i) >= limits.vocab_size) {
      return InvalidArgument("token id {} at {} is outside the vocabulary of {}", wire.token_ids(i),
                             i, limits.vocab_size);
    }
  }
  const auto tokens = static_cast<uint32_t>(wire.token_ids_size());
  if (wire.num_prompt_tokens() < 1 || wire.num_prompt_tokens() > tokens) {
    return InvalidArgument("num_prompt_tokens is {}, must be from 1 to {}",
                           wire.num_prompt_tokens(), tokens);
  }
  const uint32_t replayed = tokens - wire.num_prompt_tokens();
  if (wire.sampling().max_tokens() <= replayed || wire.sampling().max_tokens() > INT32_MAX) {
    return InvalidArgument("max_tokens is {} with {} tokens replayed, must be more",
                           wire.sampling().max_tokens(), replayed);
  }
  return absl::OkStatus();
}

Status CheckSampling(const v1::EngineSampling& s, const SubmitLimits& limits) {
  CHOIR_RETURN_IF_ERROR(CheckRange("temperature", s.temperature(), 0, 100));
  CHOIR_RETURN_IF_ERROR(CheckRange("top_p", s.top_p(), 0, 1));
  if (s.top_p() <= 0) return InvalidArgument("top_p is {}, must be above 0", s.top_p());
  CHOIR_RETURN_IF_ERROR(CheckRange("min_p", s.min_p(), 0, 1));
  CHOIR_RETURN_IF_ERROR(CheckRange("presence_penalty", s.presence_penalty(), -100, 100));
  CHOIR_RETURN_IF_ERROR(CheckRange("frequency_penalty", s.frequency_penalty(), -100, 100));
  CHOIR_RETURN_IF_ERROR(CheckRange("num_logprobs", s.num_logprobs(), -1, kLogprobsMax));
  if (s.bias_ids_size() != s.bias_values_size() || s.bias_ids_size() > kBiasMax) {
    return InvalidArgument("{} bias ids with {} values, must be as many and at most {}",
                           s.bias_ids_size(), s.bias_values_size(), kBiasMax);
  }
  for (int i = 0; i < s.bias_ids_size(); ++i) {
    if (s.bias_ids(i) < 0 || s.bias_ids(i) >= limits.vocab_size) {
      return InvalidArgument("logit bias of token id {}, which is outside the vocabulary of {}",
                             s.bias_ids(i), limits.vocab_size);
    }
    CHOIR_RETURN_IF_ERROR(
        CheckRange("logit bias", static_cast<double>(s.bias_values(i)), -1e6, 1e6));
  }
  if (s.stop_token_ids_size() > kStopIdsMax) {
    return InvalidArgument("{} stop token ids, must be at most {}", s.stop_token_ids_size(),
                           kStopIdsMax);
  }
  return absl::OkStatus();
}

v1::Finish ToWire(Finish finish) {
  switch (finish) {
    case Finish::kNone:
      return v1::FINISH_NONE;
    case Finish::kStop:
      return v1::FINISH_STOP;
    case Finish::kLength:
      return v1::FINISH_LENGTH;
    case Finish::kCancelled:
      return v1::FINISH_CANCELLED;
    case Finish::kRefused:
      return v1::FINISH_REFUSED;
    case Finish::kLost:
      return v1::FINISH_LOST;
  }
  return v1::FINISH_LOST;
}

}  // namespace

StatusOr<SequenceRequest> FromWire(const v1::SubmitSequence& wire, const SubmitLimits& limits) {
  CHOIR_RETURN_IF_ERROR(CheckTokens(wire, limits));
  const v1::EngineSampling& s = wire.sampling();
  CHOIR_RETURN_IF_ERROR(CheckSampling(s, limits));
  if (wire.cache_salt().size() > kCacheSaltMax) {
    return InvalidArgument("cache_salt has {} bytes, must be at most {}", wire.cache_salt().size(),
                           kCacheSaltMax);
  }
  SequenceRequest request;
  request.tokens.assign(wire.token_ids().begin(), wire.token_ids().end());
  request.num_prompt = static_cast<int32_t>(wire.num_prompt_tokens());
  request.max_tokens = static_cast<int32_t>(s.max_tokens());
  request.priority = s.priority();
  request.cache_salt = wire.cache_salt();
  request.stop_token_ids.assign(s.stop_token_ids().begin(), s.stop_token_ids().end());
  request.sampling = {.temperature = s.temperature(),
                      .top_p = s.top_p(),
                      .top_k = s.top_k(),
                      .min_p = s.min_p(),
                      .seed = s.seed(),
                      .choice = s.choice(),
                      .presence_penalty = s.presence_penalty(),
                      .frequency_penalty = s.frequency_penalty(),
                      .logit_bias = {},
                      .num_logprobs = s.num_logprobs()};
  for (int i = 0; i < s.bias_ids_size(); ++i) {
    request.sampling.logit_bias.emplace_back(s.bias_ids(i), s.bias_values(i));
  }
  return request;
}

void ToWire(const SequenceOutput& update, uint64_t router_id, v1::SequenceUpdate* wire) {
  wire->set_id(router_id);
  wire->mutable_token_ids()->Add(update.tokens.begin(), update.tokens.end());
  for (const SampledLogprob& logprob : update.logprobs) {
    v1::StepLogprob* out = wire->add_logprobs();
    out->set_logprob(logprob.logprob);
    for (const auto& [id, value] : logprob.top) {
      out->add_top_ids(id);
      out->add_top_logprobs(value);
    }
  }
  wire->set_finish(ToWire(update.finish));
  wire->set_error(update.error);
  wire->set_cached_tokens(static_cast<uint32_t>(update.cached_tokens));
}

void ToWire(const EngineLoad& load, v1::WorkerLoad* wire) {
  wire->set_running(load.running);
  wire->set_waiting(load.waiting);
  wire->set_kv_tokens_used(load.kv_tokens_used);
  wire->set_waiting_tokens(load.waiting_tokens);
  wire->set_computed_tokens(load.computed_tokens);
}

MemberHello FromWire(const v1::JoinHello& wire) {
  return {.protocol_version = wire.protocol_version(),
          .build = wire.build(),
          .group = wire.group(),
          .rank = wire.rank(),
          .group_size = wire.group_size(),
          .incarnation = wire.incarnation(),
          .numerics_id = wire.numerics_id(),
          .model = wire.model(),
          .dtype = wire.dtype(),
          .kernels = wire.kernels(),
          .placement = wire.placement(),
          .host = wire.host(),
          .pid = wire.pid(),
          .address = wire.address(),
          .last_epoch = wire.last_epoch()};
}

void ToWire(const MemberHello& hello, v1::JoinHello* wire) {
  wire->set_protocol_version(hello.protocol_version);
  wire->set_build(hello.build);
  wire->set_group(hello.group);
  wire->set_rank(hello.rank);
  wire->set_group_size(hello.group_size);
  wire->set_incarnation(hello.incarnation);
  wire->set_numerics_id(hello.numerics_id);
  wire->set_model(hello.model);
  wire->set_dtype(hello.dtype);
  wire->set_kernels(hello.kernels);
  wire->set_placement(hello.placement);
  wire->set_host(hello.host);
  wire->set_pid(hello.pid);
  wire->set_address(hello.address);
  wire->set_last_epoch(hello.last_epoch);
}

ExchangeEndpoint FromWire(const v1::Endpoint& wire) {
  return {.segment = wire.segment(), .mesh = wire.mesh()};
}

void ToWire(const ExchangeEndpoint& endpoint, v1::Endpoint* wire) {
  wire->set_segment(endpoint.segment);
  wire->set_mesh(endpoint.mesh);
}

EpochPlan FromWire(const v1::EpochPlan& wire) {
  EpochPlan plan{.epoch = wire.epoch(), .members = {}};
  for (const v1::Member& member : wire.members()) {
    plan.members.push_back({.rank = member.rank(),
                            .incarnation = member.incarnation(),
                            .host = member.host(),
                            .pid = member.pid(),
                            .address = member.address()});
  }
  return plan;
}

void ToWire(const EpochPlan& plan, v1::EpochPlan* wire) {
  wire->set_epoch(plan.epoch);
  for (const MemberHello& member : plan.members) {
    v1::Member* out = wire->add_members();
    out->set_rank(member.rank);
    out->set_host(member.host);
    out->set_pid(member.pid);
    out->set_incarnation(member.incarnation);
    out->set_address(member.address);
  }
}

DrainStage FromWire(v1::DrainStage wire) {
  switch (wire) {
    case v1::DRAIN_RUNNING:
      return DrainStage::kRunning;
    case v1::DRAIN_DONE:
      return DrainStage::kDone;
    case v1::DRAIN_IDLE:
      return DrainStage::kIdle;
    default:
      return DrainStage::kNone;
  }
}

v1::DrainStage ToWire(DrainStage stage) {
  switch (stage) {
    case DrainStage::kRunning:
      return v1::DRAIN_RUNNING;
    case DrainStage::kDone:
      return v1::DRAIN_DONE;
    case DrainStage::kIdle:
      return v1::DRAIN_IDLE;
    case DrainStage::kNone:
      break;
  }
  return v1::DRAIN_NONE;
}

// The codes of absl and gRPC have the same numbers.
grpc::Status ToWire(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), MessageOf(status)};
}

Status FromWire(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace choir
