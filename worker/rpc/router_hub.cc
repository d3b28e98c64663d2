#include "worker/rpc/router_hub.h"

#include "common/base/log.h"
#include "common/base/version.h"
#include "worker/rpc/convert.h"

namespace choir {
namespace {

constexpr Duration kLoadInterval =
    std::chrono::milliseconds(100);  // for routers without tokens in a step
constexpr size_t kNameMax = 128;

}  // namespace

void RouterHub::Open(const ServedModel& model, Engine* engine) {
  std::lock_guard lock(mu_);
  model_ = model;
  engine_ = engine;
}

void RouterHub::Accept(std::shared_ptr<Stream> stream) {
  SessionId id = 0;
  {
    std::lock_guard lock(mu_);
    id = next_session_++;
    sessions_[id] = Session{.stream = stream, .router = "", .load_sent = {}, .told_idle = true};
  }
  stream->Start({.on_message = [this, id](v1::ToWorker& message) { OnMessage(id, message); },
                 .on_closed = [this, id] { OnClosed(id); }});
}

void RouterHub::OnClosed(SessionId id) {
  std::vector<SequenceId> orphans;
  {
    std::lock_guard lock(mu_);
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;
    orphans = registry_.Close(id);
    for (const SequenceId orphan : orphans) traces_.End(orphan, Finish::kCancelled);
    if (!found->second.router.empty()) {
      CHOIR_LOG(info, "router {} is gone; {} of its sequences are cancelled", found->second.router,
                orphans.size());
    }
    sessions_.erase(found);
  }
  CancelAll(orphans);
}

void RouterHub::CancelAll(const std::vector<SequenceId>& ids) {
  if (ids.empty()) return;
  for (const SequenceId id : ids) engine_->Cancel(id);  // there are ids, so there is an engine
}

void RouterHub::OnMessage(SessionId id, v1::ToWorker& message) {
  Work work;
  std::shared_ptr<Stream> stream;
  Engine* engine = nullptr;
  {
    std::lock_guard lock(mu_);
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;
    Session& session = found->second;
    stream = session.stream;
    Status good = CheckHello(message, session);
    if (good.ok() && message.has_hello()) {
      Greet(id, message.hello(), &session);
      EndOlderStreams(id, session.router, &work);
    }
    if (good.ok()) good = Collect(id, message, &work);
    if (!good.ok()) {
      CHOIR_LOG(warn, "router {} at {} is cut off: {}", session.router, stream->peer(),
                MessageOf(good));
      stream->Close(ToWire(good));
      return;
    }
    engine = engine_;
  }
  for (const SequenceId sequence : work.cancels) engine->Cancel(sequence);
  for (SequenceRequest& request : work.submits) {
    const SequenceId sequence = request.id;
    const Status taken = engine->Submit(std::move(request));
    if (taken.ok()) continue;
    std::lock_guard lock(mu_);
    if (const auto owner = registry_.OwnerOf(sequence)) {
      Answer(owner->router_id, Finish::kLost, MessageOf(taken), &work.answer);
    }
    registry_.Remove(sequence);
    traces_.End(sequence, Finish::kLost);
  }
  if (work.answer.has_step() || work.answer.ghosts() != 0) stream->Send(std::move(work.answer));
}

Status RouterHub::CheckHello(const v1::ToWorker& message, const Session& session) const {
  const bool greeted = !session.router.empty();
  if (greeted && message.has_hello()) return InvalidArgument("a second hello");
  if (greeted) return absl::OkStatus();
  if (!message.has_hello()) return InvalidArgument("the first message has no hello");
  const v1::RouterHello& hello = message.hello();
  if (hello.protocol_version() != kProtocolVersion) {
    return FailedPrecondition(
        "router {} (build {}) speaks protocol {}, worker {} (build {}) speaks {}; run one version",
        hello.router_id().substr(0, kNameMax), hello.build().substr(0, kNameMax),
        hello.protocol_version(), options_.identity.Id(), kVersion, kProtocolVersion);
  }
  if (hello.router_id().empty() || hello.router_id().size() > kNameMax) {
    return InvalidArgument("the router id has {} bytes, must have 1 to {}",
                           hello.router_id().size(), kNameMax);
  }
  if (engine_ == nullptr) {
    return Unavailable("worker {} is not open yet: {}", options_.identity.Id(), status_.reason);
  }
  if (registry_.num_sessions() >= static_cast<size_t>(options_.routers_max)) {
    return ResourceExhausted("worker {} serves {} routers already", options_.identity.Id(),
                             options_.routers_max);
  }
  return absl::OkStatus();
}

void RouterHub::Greet(SessionId id, const v1::RouterHello& router, Session* session) {
  session->router = router.router_id();
  registry_.Open(id);
  v1::FromWorker answer;
  v1::WorkerHello* hello = answer.mutable_hello();
  hello->set_protocol_version(kProtocolVersion);
  hello->set_worker_id(options_.identity.Id());
  hello->set_build(kVersion);
  hello->set_group(options_.identity.group);
  hello->set_rank(options_.identity.rank);
  hello->set_group_size(options_.identity.group_size);
  hello->set_model_id(model_.model_id);
  hello->set_numerics_id(model_.numerics_id);
  hello->set_context_length(static_cast<uint32_t>(model_.context_length));
  hello->set_vocab_size(static_cast<uint32_t>(model_.vocab_size));
  hello->set_kv_tokens_max(model_.kv_tokens_max);
  hello->set_kv_block_tokens(model_.kv_block_tokens);
  hello->set_running_max(model_.running_max);
  hello->set_incarnation(options_.identity.incarnation);
  FillState(answer.mutable_state());
  session->stream->Send(std::move(answer));
  CHOIR_LOG(info, "router {} at {} is connected", session->router, session->stream->peer());
}

Status RouterHub::Collect(SessionId id, const v1::ToWorker& message, Work* work) {
  // Cancels first: a router never cancels what the same message submits.
  for (const uint64_t router_id : message.cancels()) {
    if (const auto sequence = registry_.Find(id, router_id)) {
      work->cancels.push_back(*sequence);
    } else {
      // It ended already, and its end is on the way or was said: say again that nothing is held.
      Answer(router_id, Finish::kCancelled, "", &work->answer);
    }
  }
  for (const v1::SubmitSequence& submit : message.submits()) {
    CHOIR_RETURN_IF_ERROR(CollectSubmit(id, submit, work));
  }
  // Last: the list has what the same message submits.
  if (message.has_reconcile()) {
    const auto& ids = message.reconcile().ids();
    const auto difference = registry_.Compare(id, {ids.begin(), ids.end()});
    work->cancels.insert(work->cancels.end(), difference.ghosts.begin(), difference.ghosts.end());
    CountGhosts(difference.ghosts.size(), work);
    for (const uint64_t lost : difference.lost) {
      Answer(lost, Finish::kLost, "this worker does not have the sequence", &work->answer);
    }
  }
  return absl::OkStatus();
}

// A router that comes back has given up its older stream, which may not have noticed yet: what runs
// for it is replayed elsewhere.
void RouterHub::EndOlderStreams(SessionId id, const std::string& router, Work* work) {
  for (auto& [other, session] : sessions_) {
    if (other == id || session.router != router) continue;
    const auto ghosts = registry_.Clear(other);
    for (const auto& [router_id, sequence] : ghosts) {
      work->cancels.push_back(sequence);
      traces_.End(sequence, Finish::kCancelled);
    }
    CountGhosts(ghosts.size(), work);
    session.stream->Close(ToWire(Cancelled("router {} came back on another stream", router)));
  }
}

void RouterHub::CountGhosts(size_t ghosts, Work* work) {
  num_ghosts_ += ghosts;
  work->answer.set_ghosts(work->answer.ghosts() + static_cast<uint32_t>(ghosts));
}

Status RouterHub::CollectSubmit(SessionId id, const v1::SubmitSequence& submit, Work* work) {
  if (registry_.Find(id, submit.id())) {
    return InvalidArgument("sequence {} is submitted while it is running", submit.id());
  }
  auto request =
      FromWire(submit, {.vocab_size = model_.vocab_size, .context_length = model_.context_length});
  if (!request.ok()) {
    Answer(submit.id(), Finish::kRefused, MessageOf(request.status()), &work->answer);
    return absl::OkStatus();
  }
  std::string refusal = WhyNotServing();
  if (refusal.empty() && registry_.num_sequences() >= static_cast<size_t>(options_.sequences_max)) {
    refusal = fmt::format("worker {} has {} sequences already", options_.identity.Id(),
                          options_.sequences_max);
  }
  if (!refusal.empty()) {
    Answer(submit.id(), Finish::kLost, refusal, &work->answer);
    return absl::OkStatus();
  }
  CHOIR_ASSIGN_OR_RETURN(request->id, registry_.Add(id, submit.id()));
  traces_.Begin(request->id, submit, status_.epoch, model_.model_id);
  work->submits.push_back(std::move(*request));
  return absl::OkStatus();
}

std::string RouterHub::WhyNotServing() const {
  if (status_.ready && !status_.draining) return "";
  return fmt::format("worker {} takes nothing new: {}", options_.identity.Id(),
                     status_.draining ? "draining" : status_.reason);
}

void RouterHub::Answer(uint64_t router_id, Finish finish, const std::string& error,
                       v1::FromWorker* to) const {
  v1::StepResult* step = to->mutable_step();
  step->set_epoch(status_.epoch);
  ToWire({.finish = finish, .error = error}, router_id, step->add_updates());
}

void RouterHub::FillState(v1::WorkerState* state) const {
  state->set_ready(status_.ready);
  state->set_draining(status_.draining);
  state->set_epoch(status_.epoch);
  state->set_reason(status_.reason);
}

void RouterHub::SetStatus(const WorkerStatus& status) {
  std::vector<SequenceId> lost;
  {
    std::lock_guard lock(mu_);
    if (status == status_) return;
    const bool new_epoch = status.epoch != status_.epoch;
    status_ = status;
    for (auto& [id, session] : sessions_) {
      if (session.router.empty()) continue;
      v1::FromWorker message;
      FillState(message.mutable_state());
      // The engine ends what ran in the old epoch, but may still hold what came at its very end.
      // The router will replay all of it, so none of it may run here.
      if (new_epoch) Lose(id, &lost, &message);
      session.stream->Send(std::move(message));
    }
  }
  CancelAll(lost);
}

void RouterHub::Lose(SessionId id, std::vector<SequenceId>* lost, v1::FromWorker* message) {
  for (const auto& [router_id, sequence] : registry_.Clear(id)) {
    lost->push_back(sequence);
    traces_.End(sequence, Finish::kLost);
    Answer(router_id, Finish::kLost, "the epoch is over", message);
  }
}

void RouterHub::Deliver(const StepOutput& output) {
  const MonoTime now = clock_.Now();
  const bool idle = output.load.running == 0 && output.load.waiting == 0;
  std::lock_guard lock(mu_);
  std::map<SessionId, v1::FromWorker> messages;
  for (const SequenceOutput& update : output.updates) {
    traces_.OnUpdate(update);
    const auto owner = registry_.OwnerOf(update.id);
    if (!owner) continue;  // its router is gone
    ToWire(update, owner->router_id, messages[owner->session].mutable_step()->add_updates());
    if (update.finish != Finish::kNone) registry_.Remove(update.id);
  }
  for (auto& [id, session] : sessions_) {
    if (session.router.empty()) continue;
    const bool news = now - session.load_sent >= kLoadInterval || idle != session.told_idle;
    if (!messages.contains(id) && !news) continue;
    v1::FromWorker& message = messages[id];
    v1::StepResult* step = message.mutable_step();
    step->set_step(output.step);
    step->set_epoch(status_.epoch);
    ToWire(output.load, step->mutable_load());
    session.load_sent = now;
    session.told_idle = idle;
    session.stream->Send(std::move(message));
  }
}

void RouterHub::CloseAll(const Status& reason) {
  std::lock_guard lock(mu_);
  for (auto& [id, session] : sessions_) session.stream->Close(ToWire(reason));
}

size_t RouterHub::num_sequences() const {
  std::lock_guard lock(mu_);
  return registry_.num_sequences();
}

uint64_t RouterHub::num_ghosts() const {
  std::lock_guard lock(mu_);
  return num_ghosts_;
}

size_t RouterHub::num_routers() const {
  std::lock_guard lock(mu_);
  return registry_.num_sessions();
}

}  // namespace choir
