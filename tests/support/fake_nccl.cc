#include "tests/support/fake_nccl.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "common/base/check.h"

namespace choir {
namespace {

struct Comm;

// One send or receive. Whoever completes it takes it off the other side's list, too.
struct Op {
  Comm* comm = nullptr;
  int32_t from = 0, to = 0;
  const void* source = nullptr;  // of a send
  void* target = nullptr;        // of a receive
  size_t bytes = 0;
  bool done = false;
};

struct Stream {
  std::vector<std::shared_ptr<Op>> ops;
};
struct Event {
  Stream* stream = nullptr;
};

// The ranks that share one id.
struct Group {
  std::set<int32_t> joined;
  std::map<std::pair<int32_t, int32_t>, std::deque<std::shared_ptr<Op>>> sends;
};
struct Comm {
  std::shared_ptr<Group> group;
  int32_t rank = 0, size = 0;
  bool fails = false, never_ready = false, exchanged = false;
};

struct World {
  std::mutex mu;
  FakeNcclFaults faults;
  uint64_t next_id = 1;
  std::map<uint64_t, std::weak_ptr<Group>> groups;
  std::set<Stream*> streams;
  int64_t handles = 0;
};

World& TheWorld() {
  static World world;
  return world;
}

struct Staged {
  Stream* stream;
  std::shared_ptr<Op> op;
};
thread_local std::vector<Staged> staged;

void Progress(Stream& stream) {
  for (const auto& op : stream.ops) {
    if (op->done || op->target == nullptr) continue;
    auto& waiting = op->comm->group->sends[{op->from, op->to}];
    if (waiting.empty()) continue;
    CHOIR_CHECK(waiting.front()->bytes == op->bytes);
    std::memcpy(op->target, waiting.front()->source, op->bytes);
    waiting.front()->done = op->done = true;
    waiting.pop_front();
  }
  std::erase_if(stream.ops, [](const auto& op) { return op->done; });
}

const char* Connect(const cuda::NcclId& id, int32_t rank, int32_t size, void** comm) {
  World& w = TheWorld();
  const std::lock_guard lock(w.mu);
  uint64_t key = 0;
  std::memcpy(&key, id.bytes, sizeof key);
  std::shared_ptr<Group> group = w.groups[key].lock();
  if (group == nullptr) {
    group = std::make_shared<Group>();
    w.groups[key] = group;
  }
  const bool never = w.faults.unconnected_rank == rank;
  if (!never) group->joined.insert(rank);
  *comm = new Comm{group, rank, size, w.faults.failing_rank == rank, never};
  ++w.handles;
  return nullptr;
}

cuda::NcclState Poll(void* handle, const char** why) {
  const std::lock_guard lock(TheWorld().mu);
  const Comm& comm = *static_cast<Comm*>(handle);
  if (comm.fails && comm.exchanged) {
    *why = "unhandled cuda error";
    return cuda::NcclState::kFailed;
  }
  const bool all = static_cast<int32_t>(comm.group->joined.size()) == comm.size;
  return all && !comm.never_ready ? cuda::NcclState::kReady : cuda::NcclState::kWorking;
}

const char* EndGroup() {
  const std::lock_guard lock(TheWorld().mu);
  for (const Staged& s : staged) {
    Comm& comm = *s.op->comm;
    comm.exchanged = true;
    if (s.op->source != nullptr) comm.group->sends[{s.op->from, s.op->to}].push_back(s.op);
    s.stream->ops.push_back(s.op);
  }
  staged.clear();
  return nullptr;
}

const char* Send(void* comm, const void* from, size_t bytes, int32_t peer, void* stream) {
  auto* c = static_cast<Comm*>(comm);
  staged.push_back({static_cast<Stream*>(stream),
                    std::make_shared<Op>(Op{c, c->rank, peer, from, nullptr, bytes})});
  return nullptr;
}

const char* Recv(void* comm, void* to, size_t bytes, int32_t peer, void* stream) {
  auto* c = static_cast<Comm*>(comm);
  staged.push_back({static_cast<Stream*>(stream),
                    std::make_shared<Op>(Op{c, peer, c->rank, nullptr, to, bytes})});
  return nullptr;
}

void Abort(void* handle) {
  World& w = TheWorld();
  const std::lock_guard lock(w.mu);
  auto* comm = static_cast<Comm*>(handle);
  const auto mine = [comm](const auto& op) { return op->comm == comm; };
  for (auto& [pair, sends] : comm->group->sends) std::erase_if(sends, mine);
  for (Stream* stream : w.streams) std::erase_if(stream->ops, mine);
  delete comm;
  --w.handles;
}

const char* MakeStream(void** stream) {
  World& w = TheWorld();
  const std::lock_guard lock(w.mu);
  auto* made = new Stream;
  w.streams.insert(made);
  ++w.handles;
  *stream = made;
  return nullptr;
}

void FreeStream(void* handle) {
  World& w = TheWorld();
  const std::lock_guard lock(w.mu);
  auto* stream = static_cast<Stream*>(handle);
  CHOIR_CHECK(stream->ops.empty());
  w.streams.erase(stream);
  delete stream;
  --w.handles;
}

const char* MakeEvent(void** event) {
  const std::lock_guard lock(TheWorld().mu);
  *event = new Event;
  ++TheWorld().handles;
  return nullptr;
}

void FreeEvent(void* event) {
  const std::lock_guard lock(TheWorld().mu);
  delete static_cast<Event*>(event);
  --TheWorld().handles;
}

const char* IsDone(void* event, bool* done) {
  const std::lock_guard lock(TheWorld().mu);
  Stream& stream = *static_cast<Event*>(event)->stream;
  Progress(stream);
  *done = stream.ops.empty();
  return nullptr;
}

}  // namespace

const cuda::DeviceTable& FakeDevice() {
  static const cuda::DeviceTable table = [] {
    cuda::DeviceTable t;
    t.copy = [](void* to, const void* from, size_t bytes, void*) -> const char* {
      std::memcpy(to, from, bytes);
      return nullptr;
    };
    t.make_stream = MakeStream;
    t.free_stream = FreeStream;
    t.make_event = MakeEvent;
    t.free_event = FreeEvent;
    t.record = [](void* event, void* stream) -> const char* {
      static_cast<Event*>(event)->stream = static_cast<Stream*>(stream);
      return nullptr;
    };
    t.is_done = IsDone;
    return t;
  }();
  return table;
}

const cuda::NcclTable& FakeNccl() {
  static const cuda::NcclTable table = [] {
    cuda::NcclTable t;
    t.open = [](int32_t* version) {
      const std::lock_guard lock(TheWorld().mu);
      *version = TheWorld().faults.version;
      return TheWorld().faults.open_error;
    };
    t.make_id = [](cuda::NcclId* id) -> const char* {
      const std::lock_guard lock(TheWorld().mu);
      const uint64_t key = TheWorld().next_id++;
      std::memcpy(id->bytes, &key, sizeof key);
      return nullptr;
    };
    t.connect = Connect;
    t.poll = Poll;
    t.begin_group = []() -> const char* { return nullptr; };
    t.end_group = EndGroup;
    t.send = Send;
    t.recv = Recv;
    t.abort = Abort;
    return t;
  }();
  return table;
}

void SetFakeNcclFaults(const FakeNcclFaults& faults) {
  const std::lock_guard lock(TheWorld().mu);
  TheWorld().faults = faults;
}

int64_t FakeNcclHandles() {
  const std::lock_guard lock(TheWorld().mu);
  return TheWorld().handles;
}

}  // namespace choir
