// Group.Join at the leader: carries events of the ranks' streams to GroupLeader and its actions
// back. Owner thread "group"; streams come in through a bounded queue. Private to worker/rpc.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>

#include "choir/v1/control.pb.h"
#include "common/runtime/bounded_queue.h"
#include "worker/group/group_leader.h"
#include "worker/rpc/server_stream.h"

namespace choir {

class GroupServer {
 public:
  using Stream = ServerStream<v1::JoinUp, v1::JoinDown>;

  explicit GroupServer(const Clock& clock) : clock_(clock) {}
  ~GroupServer();

  // From now on ranks may join; before, they are told that the leader is loading.
  void Lead(GroupLeaderOptions options);
  void Accept(const std::shared_ptr<Stream>& stream);
  void Stop();  // idempotent

 private:
  struct Joined {
    MemberId id;
    MemberHello hello;
    std::shared_ptr<Stream> stream;
  };
  struct Said {
    MemberId id;
    v1::JoinUp message;
  };
  using Event = std::variant<Joined, Said>;
  struct Greeting {  // of one stream; used by its callbacks only
    bool done = false;
  };

  void OnMessage(MemberId id, const std::shared_ptr<Stream>& stream, Greeting* greeting,
                 v1::JoinUp& message);
  void Run();
  void HandleLeft();
  void Handle(const Event& event);
  void Do(const GroupActions& actions);
  void DoOne(const RefuseMember& refused);
  void DoOne(const PlanEpoch& planned);
  void DoOne(const ConnectEpoch& connect);
  void DoOne(const StartEpoch& started);
  void DoOne(const EndEpoch& ended);
  void DoOne(const TellGroup& told);
  void DoOne(const BeatLeader& beat);
  void ToAll(v1::JoinDown message);

  const Clock& clock_;
  std::mutex mu_;  // guards leading_, next_id_ and left_
  bool leading_ = false;
  MemberId next_id_ = 1;
  std::vector<MemberId> left_;  // beside the queue: an end must never be refused by a full queue
  BoundedQueue<Event> events_{1024};

  // The owner thread's.
  std::unique_ptr<GroupLeader> leader_;
  std::map<MemberId, std::shared_ptr<Stream>> streams_;
  std::map<uint32_t, uint64_t> asked_;  // the incarnation of each rank that was logged
  std::string logged_refusal_;
  DrainStage drain_ = DrainStage::kNone;
  std::jthread thread_;
};

}  // namespace choir
