#include "tests/router/rpc/fake_worker.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>

#include "common/base/check.h"

namespace choir {
namespace {

int32_t FakeToken(uint64_t seed, uint32_t choice, size_t position) {
  static constexpr std::string_view kText = "the quick brown fox \xC3\xA9\xE2\x82\xAC jumps; ";
  return static_cast<uint8_t>(kText[(seed + choice * 7 + position) % kText.size()]);
}

}  // namespace

std::string FakeText(uint64_t seed, uint32_t choice, size_t num_tokens) {
  std::string bytes;
  for (size_t i = 0; i < num_tokens; ++i) {
    bytes.push_back(static_cast<char>(FakeToken(seed, choice, i)));
  }
  // Both ends may cut a character; what is left of it becomes U+FFFD.
  std::string text;
  for (size_t i = 0; i < bytes.size();) {
    const auto lead = static_cast<uint8_t>(bytes[i]);
    const size_t size = lead < 0x80 ? 1 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 0;
    if (size != 0 && i + size <= bytes.size()) {
      text += bytes.substr(i, size);
      i += size;
    } else {
      text += "\xEF\xBF\xBD";
      i += size == 0 ? 1 : bytes.size() - i;
    }
  }
  return text;
}

class FakeWorker::Service : public v1::Worker::Service {
 public:
  explicit Service(FakeWorker* worker) : worker_(worker) {}

  grpc::Status Connect(grpc::ServerContext*,
                       grpc::ServerReaderWriter<v1::FromWorker, v1::ToWorker>* stream) override {
    FakeWorker& w = *worker_;
    Connection connection;
    {
      std::lock_guard lock(w.mu_);
      if (w.killed_) return grpc::Status::OK;
      v1::FromWorker hello;
      v1::WorkerHello* h = hello.mutable_hello();
      h->set_group(w.options_.group);
      h->set_group_size(w.options_.group_size);
      h->set_protocol_version(w.options_.protocol_version);
      h->set_worker_id(w.options_.worker_id);
      h->set_model_id(w.options_.model_id);
      h->set_numerics_id(w.options_.numerics_id);
      h->set_context_length(w.options_.context_length);
      h->set_running_max(w.options_.running_max);
      h->set_vocab_size(w.options_.vocab_size);
      h->set_incarnation(w.incarnation_);
      connection.outbox = {hello, w.State()};
      w.connections_.push_back(&connection);
    }
    std::thread writer([&] { WriteAll(connection, *stream); });
    v1::ToWorker message;
    while (stream->Read(&message)) {
      std::lock_guard lock(w.mu_);
      w.Take(connection, message);
    }
    {
      std::lock_guard lock(w.mu_);
      connection.over = true;
      connection.running.clear();
      std::erase(w.connections_, &connection);
      w.changed_.notify_all();
    }
    writer.join();
    return grpc::Status::OK;
  }

 private:
  void WriteAll(Connection& connection,
                grpc::ServerReaderWriter<v1::FromWorker, v1::ToWorker>& stream) {
    FakeWorker& w = *worker_;
    std::unique_lock lock(w.mu_);
    while (!connection.over) {
      w.Step(connection);
      if (connection.outbox.empty()) {
        w.changed_.wait(lock);
        continue;
      }
      std::vector<v1::FromWorker> outbox = std::move(connection.outbox);
      connection.outbox.clear();
      lock.unlock();
      for (const v1::FromWorker& message : outbox) stream.Write(message);
      lock.lock();
    }
  }

  FakeWorker* const worker_;
};

FakeWorker::FakeWorker(FakeWorkerOptions options) : options_(std::move(options)) { Start(); }

FakeWorker::~FakeWorker() { Kill(); }

void FakeWorker::Start() {
  auto service = std::make_unique<Service>(this);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service.get());
  {
    std::lock_guard lock(mu_);
    killed_ = false;
    service_ = std::move(service);
  }
  server_ = builder.BuildAndStart();
  CHOIR_CHECK(server_ != nullptr && port != 0);
  port_ = port;
}

void FakeWorker::Kill() {
  if (!server_) return;
  {
    std::lock_guard lock(mu_);
    killed_ = true;
    ++incarnation_;
    epoch_ = 1;
    for (Connection* connection : connections_) {
      connection->over = true;
      connection->running.clear();
    }
    changed_.notify_all();
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
  service_.reset();
}

v1::FromWorker FakeWorker::State() const {
  v1::FromWorker message;
  message.mutable_state()->set_ready(ready_);
  message.mutable_state()->set_draining(draining_);
  message.mutable_state()->set_epoch(epoch_);
  if (!ready_) message.mutable_state()->set_reason("told so by the test");
  return message;
}

void FakeWorker::NewEpoch(bool tell) {
  std::lock_guard lock(mu_);
  for (Connection* connection : connections_) {
    v1::FromWorker lost;
    lost.mutable_step()->set_epoch(epoch_);
    for (const auto& [id, running] : connection->running) {
      v1::SequenceUpdate* update = lost.mutable_step()->add_updates();
      update->set_id(id);
      update->set_finish(v1::FINISH_LOST);
    }
    connection->running.clear();
    if (tell) connection->outbox.push_back(lost);
  }
  ++epoch_;
  for (Connection* connection : connections_) connection->outbox.push_back(State());
  changed_.notify_all();
}

void FakeWorker::SetState(bool ready, bool draining) {
  std::lock_guard lock(mu_);
  ready_ = ready;
  draining_ = draining;
  for (Connection* connection : connections_) connection->outbox.push_back(State());
  changed_.notify_all();
}

void FakeWorker::SendLoad() {
  std::lock_guard lock(mu_);
  for (Connection* connection : connections_) {
    v1::FromWorker message;
    message.mutable_step()->set_epoch(epoch_);
    message.mutable_step()->mutable_load()->set_running(
        static_cast<uint32_t>(connection->running.size()));
    connection->outbox.push_back(message);
  }
  changed_.notify_all();
}

void FakeWorker::AddGhost(uint64_t id) {
  std::lock_guard lock(mu_);
  for (Connection* connection : connections_) connection->running[id] = {};
}

void FakeWorker::LoseSubmits(bool lose) {
  std::lock_guard lock(mu_);
  losing_ = lose;
}

void FakeWorker::RefuseSubmits() {
  std::lock_guard lock(mu_);
  refusing_ = true;
}

void FakeWorker::Allow(int64_t tokens) {
  std::lock_guard lock(mu_);
  allowance_ = tokens;
  changed_.notify_all();
}

void FakeWorker::Take(Connection& connection, const v1::ToWorker& message) {
  v1::FromWorker answer;
  for (const v1::SubmitSequence& submit : message.submits()) {
    ++submits_;
    if (losing_) {
      v1::SequenceUpdate* update = answer.mutable_step()->add_updates();
      update->set_id(submit.id());
      update->set_finish(v1::FINISH_LOST);
      continue;
    }
    if (refusing_) {
      v1::SequenceUpdate* update = answer.mutable_step()->add_updates();
      update->set_id(submit.id());
      update->set_finish(v1::FINISH_REFUSED);
      update->set_error("no room");
      continue;
    }
    Running& running = connection.running[submit.id()];
    running.submit = submit;
    running.generated = submit.token_ids_size() - submit.num_prompt_tokens();
  }
  for (const uint64_t id : message.cancels()) {
    ++cancels_;
    if (connection.running.erase(id) == 0) continue;
    v1::SequenceUpdate* update = answer.mutable_step()->add_updates();
    update->set_id(id);
    update->set_finish(v1::FINISH_CANCELLED);
  }
  if (message.has_reconcile()) {
    const auto& ids = message.reconcile().ids();
    answer.set_ghosts(
        static_cast<uint32_t>(std::erase_if(connection.running, [&](const auto& entry) {
          return std::find(ids.begin(), ids.end(), entry.first) == ids.end();
        })));
  }
  if (answer.has_step() || answer.ghosts() != 0) {
    answer.mutable_step()->set_epoch(epoch_);
    connection.outbox.push_back(answer);
  }
  changed_.notify_all();
}

void FakeWorker::Step(Connection& connection) {
  if (killed_ || allowance_ <= 0 || connection.running.empty()) return;
  v1::FromWorker message;
  v1::StepResult* step = message.mutable_step();
  step->set_epoch(epoch_);
  for (auto it = connection.running.begin(); it != connection.running.end() && allowance_ > 0;) {
    Running& running = it->second;
    const v1::EngineSampling& sampling = running.submit.sampling();
    v1::SequenceUpdate* update = step->add_updates();
    update->set_id(it->first);
    const int32_t token = FakeToken(sampling.seed(), sampling.choice(), running.generated);
    update->add_token_ids(options_.bad_token != 0 ? options_.bad_token : token);
    if (sampling.num_logprobs() >= 0) update->add_logprobs()->set_logprob(-0.5f);
    --allowance_;
    ++running.generated;
    const auto& stops = sampling.stop_token_ids();
    const bool stop = std::find(stops.begin(), stops.end(), token) != stops.end();
    const bool full = running.generated >= sampling.max_tokens();
    if (stop || full) update->set_finish(stop ? v1::FINISH_STOP : v1::FINISH_LENGTH);
    it = stop || full ? connection.running.erase(it) : std::next(it);
  }
  step->mutable_load()->set_running(static_cast<uint32_t>(connection.running.size()));
  connection.outbox.push_back(message);
  changed_.notify_all();
}

template <typename Condition>
bool FakeWorker::Wait(Condition condition) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(lock, std::chrono::seconds(30), condition);
}

bool FakeWorker::WaitHeld(size_t sequences) {
  return Wait([&] {
    size_t held = 0;
    for (const Connection* connection : connections_) held += connection->running.size();
    return held == sequences;
  });
}

bool FakeWorker::WaitSubmits(size_t submits, std::chrono::milliseconds time) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(lock, time, [&] { return submits_ >= submits; });
}

bool FakeWorker::WaitAllowanceUsed() {
  return Wait([&] { return allowance_ <= 0; });
}

std::vector<int32_t> FakeWorker::priorities() const {
  std::lock_guard lock(mu_);
  std::vector<int32_t> all;
  for (const Connection* connection : connections_) {
    for (const auto& [id, running] : connection->running) {
      all.push_back(running.submit.sampling().priority());
    }
  }
  return all;
}

size_t FakeWorker::cancels() const {
  std::lock_guard lock(mu_);
  return cancels_;
}

}  // namespace choir
