#include "router/rpc/convert.h"

#include <cmath>
#include <utility>

#include "choir/v1/rich_status.pb.h"

namespace choir {
namespace {

constexpr size_t kSessionMax = 512;  // bytes of a session's name that tell it from others

template <typename T>
std::vector<T> ToVector(const google::protobuf::RepeatedField<T>& field) {
  return {field.begin(), field.end()};
}

SequenceEnd EndOf(v1::Finish finish) {
  switch (finish) {
    case v1::FINISH_STOP:
      return SequenceEnd::kStop;
    case v1::FINISH_LENGTH:
      return SequenceEnd::kLength;
    case v1::FINISH_CANCELLED:
      return SequenceEnd::kCancelled;
    case v1::FINISH_REFUSED:
      return SequenceEnd::kRefused;
    case v1::FINISH_LOST:
      return SequenceEnd::kLost;
    default:
      return SequenceEnd::kNone;
  }
}

grpc::StatusCode CodeOf(int http) {
  switch (http) {
    case 400:
    case 413:
    case 422:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case 401:
      return grpc::StatusCode::UNAUTHENTICATED;
    case 402:
    case 429:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case 403:
      return grpc::StatusCode::PERMISSION_DENIED;
    case 404:
      return grpc::StatusCode::NOT_FOUND;
    case 499:
      return grpc::StatusCode::CANCELLED;
    case 503:
      return grpc::StatusCode::UNAVAILABLE;
    case 504:
      return grpc::StatusCode::DEADLINE_EXCEEDED;
    default:
      return grpc::StatusCode::INTERNAL;
  }
}

void AddDetail(const char* type, const google::protobuf::Message& detail, v1::RichStatus* status) {
  google::protobuf::Any* any = status->add_details();
  any->set_type_url(std::string("type.googleapis.com/google.rpc.") + type);
  any->set_value(detail.SerializeAsString());
}

}  // namespace

SamplingInput FromProto(const v1::Sampling& s) {
  SamplingInput out;
  if (s.has_max_tokens()) out.max_tokens = s.max_tokens();
  if (s.has_temperature()) out.temperature = s.temperature();
  if (s.has_top_p()) out.top_p = s.top_p();
  if (s.has_top_k()) out.top_k = s.top_k();
  if (s.has_min_p()) out.min_p = s.min_p();
  if (s.has_seed()) out.seed = s.seed();
  if (s.has_presence_penalty()) out.presence_penalty = s.presence_penalty();
  if (s.has_frequency_penalty()) out.frequency_penalty = s.frequency_penalty();
  for (const auto& [id, bias] : s.logit_bias()) out.logit_bias[id] = bias;
  out.stop.assign(s.stop().begin(), s.stop().end());
  out.stop_token_ids = ToVector(s.stop_token_ids());
  if (s.has_ignore_eos()) out.ignore_eos = s.ignore_eos();
  if (s.has_logprobs()) out.logprobs = s.logprobs();
  if (s.has_n()) out.n = s.n();
  return out;
}

RequestInput FromProto(v1::GenerateRequest&& request) {
  RequestInput out;
  out.route = "/choir.v1.Inference/Generate";
  out.model = std::move(*request.mutable_model());
  out.client_request_id = std::move(*request.mutable_request_id());
  out.echo = request.echo();
  out.sampling = FromProto(request.sampling());
  if (request.has_prompt()) {
    out.content = PromptText{std::move(*request.mutable_prompt()), request.add_special()};
  } else if (request.has_token_ids()) {
    out.content = PromptIds{ToVector(request.token_ids().ids())};
  }
  return out;
}

RequestInput FromProto(v1::ChatRequest&& request) {
  RequestInput out;
  out.route = "/choir.v1.Inference/Chat";
  out.model = std::move(*request.mutable_model());
  out.client_request_id = std::move(*request.mutable_request_id());
  out.sampling = FromProto(request.sampling());
  out.content = ChatInput{std::move(*request.mutable_messages_json()),
                          std::move(*request.mutable_tools_json()),
                          std::move(*request.mutable_template_kwargs_json())};
  return out;
}

RequestInput FromProto(v1::EdgeOpen&& open) {
  RequestInput out;
  if (open.has_generate()) out = FromProto(std::move(*open.mutable_generate()));
  if (open.has_chat()) out = FromProto(std::move(*open.mutable_chat()));
  out.bearer = std::move(*open.mutable_bearer());
  out.source = std::move(*open.mutable_source());
  out.route = std::move(*open.mutable_route());
  out.trace_parent = std::move(*open.mutable_trace_parent());
  out.session = open.session().substr(0, kSessionMax);
  out.no_cache = open.no_cache();
  out.wanted_class = std::move(*open.mutable_admission_class());
  out.timeout_seconds = open.timeout_ms() / 1000.0;
  if (!open.client_request_id().empty()) out.client_request_id = open.client_request_id();
  out.resume_state = std::move(*open.mutable_resume_state());
  if (open.has_resume()) {
    ResumeInput& resume = out.resume.emplace();
    resume.request_id = open.resume().request_id();
    resume.seed = open.resume().seed();
    resume.audit_receipt = open.resume().audit_receipt();
    for (const v1::EdgeResumeChoice& choice : open.resume().choices()) {
      resume.choices.push_back({choice.choice(), ToVector(choice.token_ids()), choice.text_bytes(),
                                choice.reasoning_bytes()});
    }
  }
  return out;
}

AttachInput AttachFromProto(const v1::EdgeOpen& open) {
  AttachInput out;
  out.bearer = open.bearer();
  out.source = open.source();
  out.request_id = open.attach().request_id();
  out.choices = open.attach().choices();
  for (const v1::EdgePosition& p : open.attach().positions()) {
    out.position.push_back({p.choice(), p.tokens(), p.finished()});
  }
  return out;
}

void ToProto(ChoiceDelta&& delta, v1::GenerateEvent* event) {
  event->set_choice(delta.choice);
  event->set_text(std::move(delta.text));
  event->set_reasoning_text(std::move(delta.reasoning));
  event->mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  for (TokenLogprob& from : delta.logprobs) {
    v1::TokenLogprob* to = event->add_logprobs();
    to->set_token_id(from.token_id);
    to->set_logprob(from.logprob);
    to->set_token(std::move(from.bytes));
    to->set_text_offset(from.text_offset);
    for (TopLogprob& top : from.top) {
      v1::TopLogprob* other = to->add_top();
      other->set_token_id(top.token_id);
      other->set_logprob(top.logprob);
      other->set_token(std::move(top.bytes));
    }
  }
  event->set_finish_reason(std::move(delta.finish_reason));
}

void ToProto(const Usage& usage, v1::Usage* out) {
  out->set_prompt_tokens(usage.prompt_tokens);
  out->set_cached_tokens(usage.cached_tokens);
  out->set_output_tokens(usage.output_tokens);
  out->set_reasoning_tokens(usage.reasoning_tokens);
}

void ToProto(const ApiError& error, const FailedInfo& info, v1::EdgeError* out) {
  out->set_http(static_cast<uint32_t>(error.http));
  out->set_type(error.type);
  out->set_code(error.code);
  out->set_message(error.message);
  out->set_param(error.param);
  out->set_retry_after_seconds(error.retry_after_seconds);
  out->set_audit_receipt(info.audit_receipt);
  out->set_request_id(info.request_id);
  ToProto(info.limits, out->mutable_limits());
}

void ToProto(const std::vector<LimitReading>& limits,
             google::protobuf::RepeatedPtrField<v1::EdgeLimit>* out) {
  for (const LimitReading& reading : limits) {
    v1::EdgeLimit* const limit = out->Add();
    limit->set_name(reading.name);
    limit->set_limit(reading.limit);
    limit->set_remaining(reading.remaining);
    limit->set_reset_seconds(reading.reset_seconds);
  }
}

void ToProto(const AcceptedInfo& info, bool with_prompt, v1::EdgeAccepted* out) {
  out->set_request_id(info.request_id);
  out->set_seed(info.seed);
  out->set_prompt_tokens(static_cast<uint32_t>(info.prompt.size()));
  out->set_audit_receipt(info.audit_receipt);
  ToProto(info.limits, out->mutable_limits());
  out->set_resume_state(info.resume_state);
  out->set_recalled(info.recalled);
  if (!with_prompt) return;
  out->mutable_prompt_token_ids()->Add(info.prompt.begin(), info.prompt.end());
}

void ToProto(const RouterCore::ModelInfo& info, v1::Model* out) {
  out->set_id(info.id);
  out->set_created(info.created);
  out->set_context_length(info.context_length);
  out->set_numerics_id(info.numerics_id);
}

void ToProto(SequenceSubmit&& submit, v1::SubmitSequence* out) {
  out->set_id(submit.id.value());
  out->mutable_token_ids()->Add(submit.token_ids.begin(), submit.token_ids.end());
  out->set_num_prompt_tokens(submit.num_prompt_tokens);
  out->set_request_id(std::move(submit.request_id));
  out->set_cache_salt(std::move(submit.cache_salt));
  out->set_trace_parent(std::move(submit.trace_parent));
  const SequenceSampling& from = submit.sampling;
  v1::EngineSampling* to = out->mutable_sampling();
  to->set_max_tokens(from.max_tokens);
  to->set_temperature(from.temperature);
  to->set_top_p(from.top_p);
  to->set_top_k(from.top_k);
  to->set_min_p(from.min_p);
  to->set_seed(from.seed);
  to->set_choice(submit.choice);
  to->set_presence_penalty(from.presence_penalty);
  to->set_frequency_penalty(from.frequency_penalty);
  to->mutable_bias_ids()->Add(from.bias_ids.begin(), from.bias_ids.end());
  to->mutable_bias_values()->Add(from.bias_values.begin(), from.bias_values.end());
  to->mutable_stop_token_ids()->Add(from.stop_token_ids.begin(), from.stop_token_ids.end());
  to->set_num_logprobs(from.num_logprobs);
  to->set_priority(from.priority);
}

namespace {

constexpr size_t kNameBytesMax = 256;
constexpr size_t kReasonMax = 1024;  // bytes that are kept of a worker's words
constexpr int kTopLogprobsMax = 64;

Status CheckHello(const v1::WorkerHello& hello) {
  for (const std::string* name :
       {&hello.worker_id(), &hello.build(), &hello.model_id(), &hello.numerics_id()}) {
    if (name->size() > kNameBytesMax) {
      return InvalidArgument("a name in its hello has {} bytes, the limit is {}", name->size(),
                             kNameBytesMax);
    }
  }
  if (hello.worker_id().empty()) return InvalidArgument("its hello has no worker id");
  return absl::OkStatus();
}

Status CheckToken(int32_t token, uint32_t vocab_size) {
  if (token >= 0 && (vocab_size == 0 || static_cast<uint32_t>(token) < vocab_size)) {
    return absl::OkStatus();
  }
  return InvalidArgument("token id {} is outside its vocabulary of {}", token, vocab_size);
}

Status CheckLogprob(const v1::StepLogprob& logprob, uint32_t vocab_size) {
  if (logprob.top_ids_size() != logprob.top_logprobs_size() ||
      logprob.top_ids_size() > kTopLogprobsMax) {
    return InvalidArgument("{} top ids with {} log probabilities, must be as many and at most {}",
                           logprob.top_ids_size(), logprob.top_logprobs_size(), kTopLogprobsMax);
  }
  bool numbers = !std::isnan(logprob.logprob());
  for (const float value : logprob.top_logprobs()) numbers = numbers && !std::isnan(value);
  if (!numbers) return InvalidArgument("a log probability is not a number");
  for (const int32_t token : logprob.top_ids()) {
    CHOIR_RETURN_IF_ERROR(CheckToken(token, vocab_size));
  }
  return absl::OkStatus();
}

}  // namespace

Status CheckFromWorker(const v1::FromWorker& message, uint32_t vocab_size) {
  if (message.has_hello()) CHOIR_RETURN_IF_ERROR(CheckHello(message.hello()));
  for (const v1::SequenceUpdate& update : message.step().updates()) {
    if (update.logprobs_size() > update.token_ids_size()) {
      return InvalidArgument("{} log probabilities for {} tokens of sequence {}",
                             update.logprobs_size(), update.token_ids_size(), update.id());
    }
    if (!v1::Finish_IsValid(update.finish())) {
      return InvalidArgument("finish {} of sequence {} is not known", update.finish(), update.id());
    }
    for (const int32_t token : update.token_ids()) {
      CHOIR_RETURN_IF_ERROR(CheckToken(token, vocab_size));
    }
    for (const v1::StepLogprob& logprob : update.logprobs()) {
      CHOIR_RETURN_IF_ERROR(CheckLogprob(logprob, vocab_size));
    }
  }
  return absl::OkStatus();
}

WorkerIdentity FromProto(const v1::WorkerHello& hello) {
  WorkerIdentity out;
  out.protocol_version = hello.protocol_version();
  out.worker_id = hello.worker_id();
  out.build = hello.build();
  out.group = hello.group();
  out.rank = hello.rank();
  out.group_size = hello.group_size();
  out.model_id = hello.model_id();
  out.numerics_id = hello.numerics_id();
  out.context_length = hello.context_length();
  out.vocab_size = hello.vocab_size();
  out.kv_tokens_max = hello.kv_tokens_max();
  out.kv_block_tokens = hello.kv_block_tokens();
  out.running_max = hello.running_max();
  out.incarnation = hello.incarnation();
  return out;
}

WorkerStateReport FromProto(const v1::WorkerState& state) {
  return {state.ready(), state.draining(), state.epoch(), state.reason().substr(0, kReasonMax)};
}

StepReport FromProto(const v1::StepResult& step) {
  StepReport out;
  out.epoch = step.epoch();
  out.updates.reserve(step.updates_size());
  for (const v1::SequenceUpdate& from : step.updates()) {
    SequenceUpdate& to = out.updates.emplace_back();
    to.id = SequenceId(from.id());
    to.token_ids = ToVector(from.token_ids());
    for (const v1::StepLogprob& l : from.logprobs()) {
      to.logprobs.push_back({l.logprob(), ToVector(l.top_ids()), ToVector(l.top_logprobs())});
    }
    to.end = EndOf(from.finish());
    to.error = from.error().substr(0, kReasonMax);
    to.cached_tokens = from.cached_tokens();
  }
  if (step.has_load()) {
    out.load =
        WorkerLoad{step.load().running(), step.load().waiting(), step.load().kv_tokens_used(),
                   step.load().waiting_tokens(), step.load().computed_tokens()};
  }
  return out;
}

grpc::Status ToGrpcStatus(const ApiError& error, const std::string& request_id) {
  const grpc::StatusCode code = CodeOf(error.http);
  v1::RichStatus rich;
  rich.set_code(code);
  rich.set_message(error.message);
  v1::ErrorInfo info;
  info.set_reason(error.code);
  info.set_domain("choir");
  (*info.mutable_metadata())["type"] = error.type;
  if (!error.param.empty()) (*info.mutable_metadata())["param"] = error.param;
  if (!request_id.empty()) (*info.mutable_metadata())["request_id"] = request_id;
  AddDetail("ErrorInfo", info, &rich);
  if (error.retry_after_seconds > 0) {
    v1::RetryInfo retry;
    const double whole = std::floor(error.retry_after_seconds);
    retry.mutable_retry_delay()->set_seconds(static_cast<int64_t>(whole));
    retry.mutable_retry_delay()->set_nanos(
        static_cast<int32_t>((error.retry_after_seconds - whole) * 1e9));
    AddDetail("RetryInfo", retry, &rich);
  }
  return {code, error.message, rich.SerializeAsString()};
}

const v1::EdgeExplained& AddExplained(uint64_t id,
                                      const std::variant<std::string, ApiError>& explained,
                                      v1::EdgeDown* down) {
  v1::EdgeExplained* out = down->add_explained();
  out->set_id(id);
  if (const auto* error = std::get_if<ApiError>(&explained)) {
    ToProto(*error, FailedInfo{}, out->mutable_error());
  } else {
    out->set_json(std::get<std::string>(explained));
  }
  return *out;
}

}  // namespace choir
