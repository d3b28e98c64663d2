#include "tests/sim/sim_router.h"

#include <algorithm>
#include <utility>

#include "common/base/check.h"
#include "common/base/version.h"
#include "router/limits/redis/redis_backend.h"
#include "router/limits/tenant_limits.h"
#include "router/rpc/convert.h"

namespace choir::sim {

SimRouter::SimRouter(std::string name, SimTime* time, SimRandom* random,
                     const RouterStatics& statics, std::vector<SimRank*> ranks, SimDisk* disk,
                     SimRouterOptions options)
    : name_(std::move(name)),
      time_(time),
      random_(random),
      statics_(statics),
      ranks_(std::move(ranks)),
      disk_(disk),
      options_(std::move(options)) {}

SimRouter::~SimRouter() { Die(); }

template <typename F>
void SimRouter::Later(Duration delay, F f) {
  time_->After(delay, [this, weak = std::weak_ptr<Life>(life_), f = std::move(f)]() mutable {
    const auto life = weak.lock();
    if (life == nullptr || life != life_) return;
    f();
    Tick();
  });
}

std::unique_ptr<Limits> SimRouter::MakeLimits() {
  if (!options_.limits) return MakeNoLimits();
  if (options_.redis == nullptr) {
    return MakeTenantLimits(*options_.limits, MakeMemoryLimitBackend(time_));
  }
  auto later = [this, weak = std::weak_ptr<Life>(life_)](Duration delay,
                                                         std::function<void()> task) {
    if (life_ == nullptr || weak.lock() != life_) return false;
    Later(delay, std::move(task));
    return true;
  };
  return MakeTenantLimits(*options_.limits,
                          MakeRedisLimitBackend({.name = "redis",
                                                 .prefix = options_.redis->prefix(),
                                                 .router = fmt::format("{}.{}", name_, lives_),
                                                 .lease = options_.limit_lease},
                                                options_.redis->Connect(std::move(later)), time_));
}

void SimRouter::Boot() {
  CHOIR_CHECK(life_ == nullptr);
  life_ = std::make_shared<Life>();
  ++lives_;
  life_->limits = MakeLimits();
  life_->admission = std::make_unique<Admission>(options_.admission, options_.requests_max);
  disk_->WatchAdmission([this] { return admission(); });
  if (options_.results_bytes > 0) {
    life_->results = MakeMemoryResultCache(options_.results_bytes, std::chrono::hours(1), time_);
  }
  RouterParts parts;
  parts.clock = time_;
  parts.model = statics_.model;
  parts.identity = statics_.identity;
  parts.limits = life_->limits.get();
  parts.admission = life_->admission.get();
  parts.results = life_->results.get();
  if (options_.content) parts.content = statics_.content;
  parts.audit = disk_;
  for (const auto& [id, record] : disk_->records()) parts.used_names.push_back(id);
  parts.metrics = statics_.metrics;
  parts.links = this;
  parts.run_text = [this](std::function<void()> work, std::function<void()> then) {
    Later(random_->Micros(50, 3000), [work = std::move(work), then = std::move(then)] {
      work();
      then();
    });
    return true;
  };
  parts.random = [this] { return random_->Bits(); };
  life_->core = std::make_unique<RouterCore>(
      RouterSettings{.router_id = name_,
                     .model_name = "sim",
                     .worker_stall_timeout = std::chrono::seconds(5),
                     .breaker = {.failures = static_cast<uint32_t>(random_->Between(1, 5))},
                     .resume_grace = kResumeGrace},
      std::move(parts));
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Link link;
    link.worker = life_->core->AddWorker(fmt::format("rank:{}", i));
    link.rank = ranks_[i];
    life_->links.push_back(std::move(link));
  }
  for (size_t i = 0; i < ranks_.size(); ++i) Connect(i);
}

void SimRouter::Die() {
  if (!life_) return;
  disk_->Forget();
  for (Link& link : life_->links) {
    if (!link.stream) continue;
    link.stream->DropRouterEnd();
    link.stream->Break("the router is gone", Duration{}, random_->Millis(0, 20));
  }
  life_.reset();
}

RouterCore& SimRouter::core() {
  CHOIR_CHECK(life_ != nullptr);
  return *life_->core;
}

// A timer at the core's next time, and one a second for what it watches itself.
void SimRouter::Tick() {
  if (!life_) return;
  const MonoTime next = std::min(life_->core->NextTimer(), time_->Now() + std::chrono::seconds(1));
  if (life_->timer <= next && life_->timer > time_->Now()) return;
  life_->timer = next;
  Later(next - time_->Now(), [this] { life_->core->OnTimer(); });
}

SimRouter::Link* SimRouter::LinkOf(WorkerIndex worker) {
  if (!life_) return nullptr;
  for (Link& link : life_->links) {
    if (link.worker == worker) return &link;
  }
  return nullptr;
}

void SimRouter::Connect(size_t index) {
  Link& link = life_->links[index];
  link.connection = ++life_->connections;
  life_->core->OnWorkerConnecting(link.worker, link.connection);
  SimStream::RouterEnd end;
  end.on_message = [this, weak = std::weak_ptr<Life>(life_), index,
                    connection = link.connection](v1::FromWorker message) {
    if (life_ && weak.lock() == life_) OnFromWorker(index, connection, std::move(message));
  };
  end.on_closed = [this, weak = std::weak_ptr<Life>(life_), index,
                   connection = link.connection](const std::string& reason) {
    if (life_ && weak.lock() == life_) OnClosed(index, connection, reason);
  };
  link.stream = std::make_shared<SimStream>(time_, random_, SimStream::Delays{}, std::move(end));
  if (!link.rank->Accept(link.stream)) {
    link.stream->Break("nobody listens", random_->Micros(100, 2000), Duration{});
    return;
  }
  v1::ToWorker hello;
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  hello.mutable_hello()->set_router_id(name_);
  hello.mutable_hello()->set_build(kVersion);
  link.stream->SendDown(std::move(hello));
}

void SimRouter::OnFromWorker(size_t index, uint64_t connection, v1::FromWorker message) {
  Link& link = life_->links[index];
  if (link.connection != connection) return;
  RouterCore& core = *life_->core;
  const Status good = CheckFromWorker(message, link.vocab);
  CHOIR_CHECK(good.ok());
  link.backoff = std::chrono::milliseconds(50);
  if (message.has_hello()) {
    link.vocab = message.hello().vocab_size();
    CHOIR_CHECK(core.OnWorkerHello(link.worker, FromProto(message.hello())).ok());
  }
  if (message.has_state()) core.OnWorkerState(link.worker, FromProto(message.state()));
  if (message.has_step()) core.OnWorkerStep(link.worker, FromProto(message.step()));
  Tick();
}

void SimRouter::OnClosed(size_t index, uint64_t connection, const std::string& reason) {
  Link& link = life_->links[index];
  if (link.connection != connection) return;
  link.stream.reset();
  life_->core->OnWorkerLost(link.worker, reason);
  const Duration pause = link.backoff;
  link.backoff = std::min<Duration>(link.backoff * 2, std::chrono::seconds(2));
  Later(pause, [this, index] { Connect(index); });
  Tick();
}

void SimRouter::Submit(WorkerIndex worker, SequenceSubmit submit) {
  Link* const link = LinkOf(worker);
  if (link == nullptr || !link->stream) return;  // lost: OnWorkerLost follows or was called
  v1::ToWorker message;
  ToProto(std::move(submit), message.add_submits());
  link->stream->SendDown(std::move(message));
}
void SimRouter::Cancel(WorkerIndex worker, SequenceId id) {
  Link* const link = LinkOf(worker);
  if (link == nullptr || !link->stream) return;
  v1::ToWorker message;
  message.add_cancels(id.value());
  link->stream->SendDown(std::move(message));
}
void SimRouter::Reconcile(WorkerIndex worker, const std::vector<SequenceId>& ids) {
  Link* const link = LinkOf(worker);
  if (link == nullptr || !link->stream) return;
  v1::ToWorker message;
  message.mutable_reconcile();
  for (const SequenceId id : ids) message.mutable_reconcile()->add_ids(id.value());
  link->stream->SendDown(std::move(message));
}
void SimRouter::Disconnect(WorkerIndex worker, const std::string& reason) {
  Link* const link = LinkOf(worker);
  if (link != nullptr && link->stream) {
    link->stream->Break(reason, Duration{}, random_->Millis(0, 5));
  }
}

void SimRouter::CutLink(size_t rank) {
  if (!life_ || !life_->links[rank].stream) return;
  life_->links[rank].stream->Break("the link is cut", random_->Millis(0, 3000),
                                   random_->Millis(0, 3000));
}
void SimRouter::BlockLink(size_t rank, MonoTime until) {
  if (life_ && life_->links[rank].stream) life_->links[rank].stream->Block(until);
}

}  // namespace choir::sim
