// The worker's end of a router's stream: whatever a router sends, the engine gets sequences that it
// can run, each under an id of its own, and nothing is held once the streams are gone.
#include <set>

#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "tests/fuzz/proto_mutator.h"
#include "worker/rpc/router_hub.h"

namespace choir {
namespace {

constexpr int32_t kVocab = 302;
constexpr int64_t kContext = 64;

class CheckedEngine : public Engine {
 public:
  Status Submit(SequenceRequest r) override {
    CHOIR_CHECK(seen.insert(r.id).second);
    CHOIR_CHECK(!r.tokens.empty() && r.tokens.size() <= static_cast<size_t>(kContext));
    for (const int32_t id : r.tokens) CHOIR_CHECK(id >= 0 && id < kVocab);
    CHOIR_CHECK(r.num_prompt >= 1 && static_cast<size_t>(r.num_prompt) <= r.tokens.size());
    CHOIR_CHECK(static_cast<size_t>(r.max_tokens) >
                r.tokens.size() - static_cast<size_t>(r.num_prompt));
    for (const auto& [id, bias] : r.sampling.logit_bias) CHOIR_CHECK(id >= 0 && id < kVocab);
    if (seen.size() % 5 == 0) return ResourceExhausted("full");
    running.insert(r.id);
    return absl::OkStatus();
  }
  void Cancel(SequenceId id) override { cancelled.push_back(id); }
  EngineStats stats() const override { return {}; }
  void SetEpoch(std::shared_ptr<Collectives> /*collectives*/) override {}
  void OnEpochFailed(std::function<void(uint64_t, Status)> /*callback*/) override {}
  void OnDeviceFailed(std::function<void(Status)> /*callback*/) override {}
  void Run() override {}
  void Stop() override {}

  std::set<SequenceId> seen, running;
  std::vector<SequenceId> cancelled;
};

class OpenStream : public RouterHub::Stream {
 public:
  void Start(Handler h) override { handler = std::move(h); }
  bool Send(v1::FromWorker message) override {
    CHOIR_CHECK(!message.SerializeAsString().empty());
    return !closed;
  }
  void Close(const grpc::Status& status) override {
    CHOIR_CHECK(status.ok() || !status.error_message().empty());
    closed = true;
  }
  std::string peer() const override { return "fuzz"; }

  Handler handler;
  bool closed = false;
};

// One step: every running sequence gets a token, cancelled ones end.
void Step(CheckedEngine* engine, RouterHub* hub, uint64_t step) {
  StepOutput out{.step = step, .updates = {}, .load = {}};
  for (const SequenceId id : engine->cancelled) {
    if (engine->running.erase(id) > 0)
      out.updates.push_back({.id = id, .finish = Finish::kCancelled});
  }
  engine->cancelled.clear();
  for (const SequenceId id : engine->running) out.updates.push_back({.id = id, .tokens = {1}});
  hub->Deliver(out);
}

}  // namespace

const google::protobuf::Message& fuzz::Prototype() { return v1::ToWorker::default_instance(); }

}  // namespace choir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir;  // NOLINT
  static const bool kQuiet = InitLog("fuzz", "off").ok();
  CHOIR_CHECK(kQuiet);
  WorkerServerOptions options;
  options.sequences_max = 8;
  options.routers_max = 2;
  RouterHub hub(options, Clock::Real());
  CheckedEngine engine;
  hub.Open(
      {.model_id = "tiny", .numerics_id = "n", .context_length = kContext, .vocab_size = kVocab},
      &engine);
  hub.SetStatus({.ready = true, .draining = false, .epoch = 1, .reason = ""});
  std::shared_ptr<OpenStream> streams[3];
  for (auto& stream : streams) {
    stream = std::make_shared<OpenStream>();
    hub.Accept(stream);
  }
  v1::ToWorker hello;
  hello.mutable_hello()->set_protocol_version(kProtocolVersion);
  hello.mutable_hello()->set_router_id("r");
  streams[0]->handler.on_message(hello);  // the others have to say it themselves
  uint64_t turn = 0;
  for (const auto& message : fuzz::ReadMessages(data, size)) {
    OpenStream& stream = *streams[turn % 4 == 3 ? 1 + turn % 2 : 0];
    if (!stream.closed) stream.handler.on_message(static_cast<v1::ToWorker&>(*message));
    ++turn;
    if (turn % 3 == 0) Step(&engine, &hub, turn);
    if (turn % 7 == 0)
      hub.SetStatus({.ready = true, .draining = false, .epoch = turn, .reason = ""});
  }
  for (const auto& stream : streams) stream->handler.on_closed();
  CHOIR_CHECK(hub.num_sequences() == 0 && hub.num_routers() == 0);
  Step(&engine, &hub, turn);
  return 0;
}
