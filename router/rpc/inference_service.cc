#include "router/rpc/inference_service.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <mutex>
#include <utility>
#include <variant>

#include "common/base/bearer.h"
#include "common/base/cache_control.h"
#include "common/base/request_id.h"
#include "common/rpc/credentials.h"
#include "router/rpc/convert.h"

namespace choir {
namespace {

// The key in `authorization: Bearer KEY`; empty when there is none, or more than one to choose
// from.
std::string BearerOf(const grpc::CallbackServerContext& context) {
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  if (begin == end || std::next(begin) != end) return {};
  return std::string(BearerIn({begin->second.data(), begin->second.size()}));
}

// The class of admission that the client asks for; one that is no class when it names two.
std::string ClassOf(const grpc::CallbackServerContext& context) {
  std::string found;
  for (const char* name : {"x-choir-class", "choir-class"}) {
    const auto [begin, end] = context.client_metadata().equal_range(name);
    for (auto it = begin; it != end; ++it) {
      const std::string value(it->second.data(), it->second.size());
      if (!found.empty() && value != found) return "two of them";
      found = value.empty() ? "none" : value;
    }
  }
  return found;
}

// Seconds to the client's own deadline; 0 when it set none.
double TimeoutOf(const grpc::CallbackServerContext& context) {
  const auto left = context.deadline() - std::chrono::system_clock::now();
  const double seconds = std::chrono::duration<double>(left).count();
  constexpr double kYear = 365.0 * 86400;
  return seconds > kYear ? 0 : std::max(seconds, 0.001);
}

// Names of the request and of its record, where there are any: what REST has as headers.
using Names = std::vector<std::pair<std::string, std::string>>;
Names NamesOf(const std::string& given, const std::string& request_id,
              const std::string& audit_receipt) {
  Names names;
  if (!request_id.empty()) names.emplace_back("x-request-id", request_id);
  if (IsRequestId(given) && given != request_id) names.emplace_back("x-client-request-id", given);
  if (!audit_receipt.empty()) names.emplace_back("x-choir-audit", audit_receipt);
  return names;
}
void AddTrailing(const Names& names, grpc::CallbackServerContext* context) {
  for (const auto& [name, value] : names) context->AddTrailingMetadata(name, value);
}

}  // namespace

class InferenceService::Call : public grpc::ServerWriteReactor<v1::GenerateEvent>,
                               public ClientStream,
                               public std::enable_shared_from_this<InferenceService::Call> {
 public:
  Call(InferenceService* service, grpc::CallbackServerContext* context, bool echo)
      : service_(service),
        context_(context),
        loop_(service->loop_),
        alive_(service->alive_),
        echo_(echo) {
    alive_->Add();
  }

  void Start(RequestInput input) {
    self_ = shared_from_this();
    given_ = input.client_request_id;
    place_ = loop_->OpenSession();
    if (!place_) {
      End(ToGrpcStatus(service_->RefuseCall()));
      return;
    }
    loop_->Post([self = shared_from_this(), input = std::move(input)]() mutable {
      self->core_id_ = self->service_->core_->Open(std::move(input), self);
    });
  }

  // gRPC's threads.
  void OnWriteDone(bool ok) override {
    const auto keep = shared_from_this();
    std::lock_guard lock(mu_);
    writing_ = false;
    if (!ok) {  // the client is gone; OnCancel tells the core
      waiting_.clear();
      waiting_bytes_ = 0;
    }
    NextLocked();
  }
  void OnCancel() override {
    if (!place_) return;  // was refused, and may post nothing
    loop_->Post([self = shared_from_this()] {
      self->service_->core_->Cancel(self->core_id_, "the client went away");
    });
  }
  void OnDone() override {
    const std::shared_ptr<Alive> alive = alive_;
    self_.reset();  // perhaps the last
    alive->Remove();
  }

  // Owner thread.
  bool Accepted(const AcceptedInfo& info) override {
    for (const auto& [name, value] : NamesOf(given_, info.request_id, info.audit_receipt)) {
      context_->AddInitialMetadata(name, value);  // leaves with this event
    }
    v1::GenerateEvent event;
    event.set_request_id(info.request_id);
    event.set_seed(info.seed);
    event.set_recalled(info.recalled);
    hides_tokens_ = info.hides_tokens;
    if (echo_) event.mutable_prompt_token_ids()->Add(info.prompt.begin(), info.prompt.end());
    return Send(std::move(event));
  }
  bool Delta(ChoiceDelta delta) override {
    v1::GenerateEvent event;
    if (hides_tokens_) delta.token_ids.clear();
    ToProto(std::move(delta), &event);
    return Send(std::move(event));
  }
  void Done(const Usage& usage) override {
    v1::GenerateEvent event;
    ToProto(usage, event.mutable_usage());
    Send(std::move(event));
    End(grpc::Status::OK);
  }
  void Fail(const ApiError& error, const FailedInfo& info) override {
    AddTrailing(NamesOf(given_, info.request_id, info.audit_receipt), context_);
    End(ToGrpcStatus(error, info.request_id));
  }

 private:
  bool Send(v1::GenerateEvent event) {
    std::lock_guard lock(mu_);
    if (ended_) return true;
    waiting_bytes_ += event.ByteSizeLong();
    waiting_.push_back(std::move(event));
    NextLocked();
    return waiting_bytes_ <= service_->limits_.pending_bytes_max;
  }
  void End(const grpc::Status& status) {
    const auto keep = shared_from_this();
    std::lock_guard lock(mu_);
    if (std::exchange(ended_, true)) return;
    status_ = status;
    NextLocked();
  }
  void NextLocked() {
    if (writing_ || finished_) return;
    if (!waiting_.empty()) {
      out_ = std::move(waiting_.front());
      waiting_.pop_front();
      waiting_bytes_ -= out_.ByteSizeLong();
      writing_ = true;
      StartWrite(&out_);
    } else if (ended_) {
      finished_ = true;
      Finish(status_);
    }
  }

  InferenceService* const service_;
  grpc::CallbackServerContext* const context_;  // outlives the call
  RouterLoop* const loop_;
  const std::shared_ptr<Alive> alive_;
  const bool echo_;
  bool hides_tokens_ = false;
  std::shared_ptr<Call> self_;   // held by gRPC
  std::shared_ptr<void> place_;  // among the loop's sessions, as long as a task may hold this
  uint64_t core_id_ = 0;         // owner thread only
  std::string given_;            // the client's name for it; set once

  std::mutex mu_;  // guards the following
  v1::GenerateEvent out_;
  std::deque<v1::GenerateEvent> waiting_;
  size_t waiting_bytes_ = 0;
  bool writing_ = false;
  bool ended_ = false;
  bool finished_ = false;
  grpc::Status status_;
};

class InferenceService::ModelsCall : public grpc::ServerUnaryReactor {
 public:
  ModelsCall(InferenceService* service, grpc::CallbackServerContext* context,
             v1::ListModelsResponse* response)
      : service_(service), context_(context), alive_(service->alive_), response_(response) {
    alive_->Add();
  }

  void Start(std::string bearer, RouterCore::CallerInfo caller) {
    place_ = service_->loop_->OpenSession();
    if (!place_) {
      Finish(ToGrpcStatus(service_->RefuseCall()));
      return;
    }
    // Not finished before the task ran, so this object outlives it.
    service_->loop_->Post([this, bearer = std::move(bearer), caller = std::move(caller)] {
      service_->core_->Authenticate(
          bearer, caller, [this](const std::variant<Principal, RouterCore::Denied>& answer) {
            if (const auto* denied = std::get_if<RouterCore::Denied>(&answer)) {
              AddTrailing(NamesOf("", "", denied->receipt), context_);
              return Finish(ToGrpcStatus(denied->error));
            }
            const RouterCore::ModelInfo model = service_->core_->model_info();
            if (MayUseModel(*std::get<Principal>(answer).rights, model.id)) {
              ToProto(model, response_->add_models());
            }
            Finish(grpc::Status::OK);
          });
    });
  }
  void OnDone() override {
    const std::shared_ptr<Alive> alive = alive_;
    delete this;
    alive->Remove();
  }

 private:
  InferenceService* const service_;
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Alive> alive_;
  v1::ListModelsResponse* const response_;
  std::shared_ptr<void> place_;
};

InferenceService::InferenceService(InferenceLimits limits, std::shared_ptr<TlsIdentity> tls,
                                   RouterLoop* loop)
    : limits_(limits), tls_(std::move(tls)), loop_(loop) {}
InferenceService::~InferenceService() = default;

ApiError InferenceService::RefuseCall() const {
  ApiError error = Overloaded("queue_full", "too many calls are open", 1);
  core_->CountRejected(error);
  return error;
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Start(
    grpc::CallbackServerContext* context, RequestInput input, bool echo) {
  input.bearer = BearerOf(*context);
  input.certificate = CallerCertificate(tls_.get(), *context);
  input.source = context->peer();
  input.timeout_seconds = TimeoutOf(*context);
  input.wanted_class = ClassOf(*context);
  const auto given = [context](const char* name) {
    const auto it = context->client_metadata().find(name);
    return it == context->client_metadata().end()
               ? std::string()
               : std::string(it->second.data(), it->second.size()).substr(0, 512);
  };
  if (input.client_request_id.empty()) input.client_request_id = given("x-request-id");
  input.session = given("x-choir-session");
  input.trace_parent = given("traceparent");
  input.no_cache = IsNoCache(given("cache-control"));
  auto call = std::make_shared<Call>(this, context, echo);
  call->Start(std::move(input));
  return call.get();
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return Start(context, FromProto(v1::GenerateRequest(*request)), request->echo_token_ids());
}

grpc::ServerWriteReactor<v1::GenerateEvent>* InferenceService::Chat(
    grpc::CallbackServerContext* context, const v1::ChatRequest* request) {
  return Start(context, FromProto(v1::ChatRequest(*request)), false);
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  auto* call = new ModelsCall(this, context, response);
  call->Start(BearerOf(*context), {.source = context->peer(),
                                   .route = "/choir.v1.Inference/ListModels",
                                   .certificate = CallerCertificate(tls_.get(), *context),
                                   .check_rights = true});
  return call;
}

}  // namespace choir
