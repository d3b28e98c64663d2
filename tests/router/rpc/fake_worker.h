// A worker that speaks worker.proto and computes nothing: its tokens are a pure function of (seed,
// choice, position), so an answer is known beforehand and any loss, doubling or reorder shows in
// the text.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "choir/v1/worker.grpc.pb.h"
#include "common/base/version.h"

namespace choir {

struct FakeWorkerOptions {
  std::string worker_id = "g0r0";
  std::string model_id = "tiny";
  std::string numerics_id = "num";
  uint32_t protocol_version = kProtocolVersion;
  uint32_t context_length = 0;
  uint32_t vocab_size = 0;
  uint32_t group = 0;
  uint32_t group_size = 0;
  uint32_t running_max = 0;
  int32_t bad_token = 0;  // what it sends instead of each token, when not 0
};

// The text a fake worker answers with.
std::string FakeText(uint64_t seed, uint32_t choice, size_t num_tokens);

class FakeWorker {
 public:
  explicit FakeWorker(FakeWorkerOptions options = {});
  ~FakeWorker();

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // As by kill -9: streams break, everything held is gone. Start listens on the same port again.
  void Kill();
  void Start();
  // Ends the epoch under all sequences; with false they are not even told.
  void NewEpoch(bool tell);
  void SetState(bool ready, bool draining);
  // A sign of life with the load, from which nothing was computed.
  void SendLoad();
  // Runs for every connected router from now on, though none asked for it.
  void AddGhost(uint64_t id);
  // From now on it gives back every sequence.
  void LoseSubmits(bool lose);
  // From now on it takes no sequence.
  void RefuseSubmits();
  // From now on so many tokens may still be generated, all sequences together.
  void Allow(int64_t tokens);

  // Waits until the condition holds; false after a long time.
  bool WaitHeld(size_t sequences);
  bool WaitSubmits(size_t submits, std::chrono::milliseconds time = std::chrono::seconds(30));
  bool WaitAllowanceUsed();
  size_t cancels() const;
  // Of the sequences that it holds, in the order of their ids.
  std::vector<int32_t> priorities() const;

 private:
  class Service;
  struct Running {
    choir::v1::SubmitSequence submit;
    size_t generated = 0;
  };
  struct Connection {
    std::vector<choir::v1::FromWorker> outbox;
    std::map<uint64_t, Running> running;
    bool over = false;
  };

  template <typename Condition>
  bool Wait(Condition condition);
  void Take(Connection& connection, const choir::v1::ToWorker& message);
  void Step(Connection& connection);
  choir::v1::FromWorker State() const;

  const FakeWorkerOptions options_;
  int port_ = 0;

  mutable std::mutex mu_;  // guards all below
  std::condition_variable changed_;
  std::vector<Connection*> connections_;
  int64_t allowance_ = INT64_MAX;
  uint64_t epoch_ = 1;
  uint64_t incarnation_ = 1;
  bool ready_ = true;
  bool draining_ = false;
  bool refusing_ = false;
  bool losing_ = false;
  size_t submits_ = 0;
  size_t cancels_ = 0;
  bool killed_ = true;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace choir
