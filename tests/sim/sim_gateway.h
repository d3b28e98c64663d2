// A gateway and the clients behind it: bodies become requests, and events answers, by the gateway's
// and the router's real conversions; a lost router's requests go on at the next one. The stream to
// the router is simulated: in order, late, and gone with the router. When the gateway dies, its
// clients come back with the id of the last event that they have (which may be less than it had),
// by the real event ids, and ask again from the start only when no router has their stream.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "choir/v1/edge.pb.h"
#include "gateway/api/response.h"
#include "tests/sim/sim_router.h"

namespace choir::sim {

struct SimRequest {
  std::string name;  // also its request id
  bool chat = false;
  std::string body;
  std::string key;
  std::string tenant;  // the key's
  std::string wanted_class;
  Duration arrives{};
  double timeout_seconds = 600;
  std::optional<Duration> cancelled_after;  // of its arrival
};

struct SimAnswer {
  std::string asked_as;  // the last request id
  bool ended = false;
  bool cancelled = false;  // by the client; nothing is heard of it any more
  std::string body;        // whole, when it ended well
  RestError error;         // http 0: none
  ApiUsage usage;
  MonoTime sent_at{}, ended_at{};
  std::optional<MonoTime> accepted_at;
  std::string complaint;  // what may not be
};

class SimGateway {
 public:
  SimGateway(SimTime* time, SimRandom* random, std::vector<SimRouter*> routers);
  ~SimGateway();

  void Send(const SimRequest& request);
  void Cancel(const std::string& name);
  // Its streams are gone; what was open goes on elsewhere.
  void OnRouterDied(const SimRouter* router);
  void Die();
  void Boot();
  bool alive() const { return alive_; }

  const std::map<std::string, SimAnswer>& answers() const { return answers_; }
  size_t num_open() const { return open_.size(); }
  uint64_t resumes() const { return resumes_; }
  uint64_t taken_up() const { return taken_up_; }

 private:
  class Client;
  struct Open;

  void Ask(Open& open);
  void OpenAtRouter(Open& open);
  void Detach(Open& open);
  void ComeBack(const std::string& name, uint64_t away);
  void AttachNext(Open& open);
  void Connect();
  void OnEvent(const std::string& name, uint64_t attempt, v1::EdgeEvent event);
  void TakeDelta(Open& open, const v1::GenerateEvent& delta);
  void End(std::shared_ptr<Open> open);

  SimTime* const time_;
  SimRandom* const random_;
  const std::vector<SimRouter*> routers_;
  SimRouter* router_ = nullptr;  // connected to
  size_t next_router_ = 0;
  uint64_t attempts_ = 0;
  uint64_t resumes_ = 0, taken_up_ = 0;
  bool alive_ = true;
  uint64_t life_ = 0;
  bool connecting_ = false;
  std::map<std::string, std::shared_ptr<Open>> open_;
  std::map<std::string, SimAnswer> answers_;
};

}  // namespace choir::sim
