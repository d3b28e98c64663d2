// All routers' streams and the sequences they have here. One mutex guards it: gRPC's threads and
// the engine's owner thread meet here once a message and once a step, which is cheaper than the 60
// us that a hop over a thread of its own would add to every token. The engine is never called under
// the mutex. Private to worker/rpc.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "choir/v1/worker.pb.h"
#include "worker/rpc/sequence_registry.h"
#include "worker/rpc/sequence_traces.h"
#include "worker/rpc/server_stream.h"
#include "worker/rpc/worker_server.h"

namespace choir {

class RouterHub {
 public:
  using Stream = MessageStream<v1::ToWorker, v1::FromWorker>;

  RouterHub(const WorkerServerOptions& options, const Clock& clock)
      : options_(options), clock_(clock), traces_(options.tracer, &clock, options.identity.Id()) {}

  void Open(const ServedModel& model, Engine* engine);
  void SetStatus(const WorkerStatus& status);
  void Deliver(const StepOutput& output);

  // A stream began: starts it, and says goodbye to it when it ends.
  void Accept(std::shared_ptr<Stream> stream);

  // Ends every stream once what was sent before is written.
  void CloseAll(const Status& reason);

  size_t num_sequences() const;
  size_t num_routers() const;
  uint64_t num_ghosts() const;  // cancelled so far because their router did not know them

 private:
  struct Session {
    std::shared_ptr<Stream> stream;
    std::string router;     // "" until its hello
    MonoTime load_sent{};   // when it last heard of the load
    bool told_idle = true;  // what it heard last
  };
  // What a router's message asks of the engine, done after the mutex is left.
  struct Work {
    std::vector<SequenceRequest> submits;
    std::vector<SequenceId> cancels;
    v1::FromWorker answer;  // refusals, ghosts
  };

  void OnMessage(SessionId id, v1::ToWorker& message);
  void OnClosed(SessionId id);
  Status CheckHello(const v1::ToWorker& message, const Session& session) const;
  void Greet(SessionId id, const v1::RouterHello& router, Session* session);
  void EndOlderStreams(SessionId id, const std::string& router, Work* work);
  void CountGhosts(size_t ghosts, Work* work);
  Status Collect(SessionId id, const v1::ToWorker& message, Work* work);
  Status CollectSubmit(SessionId id, const v1::SubmitSequence& submit, Work* work);
  std::string WhyNotServing() const;
  void Answer(uint64_t router_id, Finish finish, const std::string& error,
              v1::FromWorker* to) const;
  void Lose(SessionId id, std::vector<SequenceId>* lost, v1::FromWorker* message);
  void FillState(v1::WorkerState* state) const;
  void CancelAll(const std::vector<SequenceId>& ids);

  const WorkerServerOptions options_;
  const Clock& clock_;

  mutable std::mutex mu_;  // guards all below
  SessionId next_session_ = 1;
  std::map<SessionId, Session> sessions_;
  SequenceRegistry registry_;
  SequenceTraces traces_;
  ServedModel model_;
  Engine* engine_ = nullptr;  // set once
  uint64_t num_ghosts_ = 0;
  WorkerStatus status_{.reason = "loading"};
};

}  // namespace choir
