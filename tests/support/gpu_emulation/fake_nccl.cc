#include "tests/support/gpu_emulation/fake_nccl.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_stream.h"

namespace choir {
namespace {

using emulation::EmulatedStream;
namespace fs = std::filesystem;

struct Comm {
  fs::path folder;  // of the ranks that share one id
  int32_t rank = 0, size = 0;
  FakeNcclFaults faults;
  bool connected = false;
  int32_t groups = 0;  // so far
  int64_t windows = 0;
  std::vector<void**> unset;             // windows that it still has to set
  std::atomic<bool> dead{false};         // aborted: its work does nothing more
  std::vector<uint64_t> sent, received;  // by rank: messages so far
};
using CommRef = std::shared_ptr<Comm>;

struct Op {
  CommRef comm;
  int32_t peer = 0;
  const std::byte* from = nullptr;  // of a send
  std::byte* to = nullptr;          // of a receive
  size_t bytes = 0;
  fs::path file;
};

struct World {
  std::mutex mu;
  FakeNcclFaults faults;
  uint64_t ids = 0;
  int64_t opened = 0;
  int64_t handles = 0;
  int64_t windows = 0;
};

World& TheWorld() {
  static World world;
  return world;
}

struct Staged {
  EmulatedStream* stream;
  Op op;
};
thread_local std::vector<Staged> staged;

bool Exists(const fs::path& file) { return access(file.c_str(), F_OK) == 0; }

// There as a whole or not at all.
void Write(const fs::path& file, const std::byte* bytes, size_t size) {
  const fs::path partial = file.string() + ".part";
  fs::create_directories(file.parent_path());  // all others may have left
  std::ofstream(partial, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes), static_cast<std::streamsize>(size));
  fs::rename(partial, file);
}

void Take(const Op& op) {
  std::error_code gone;
  CHOIR_CHECK(fs::file_size(op.file, gone) == op.bytes || gone);  // both sides know the size
  std::ifstream(op.file, std::ios::binary)
      .read(reinterpret_cast<char*>(op.to), static_cast<std::streamsize>(op.bytes));
  fs::remove(op.file, gone);
}

CommRef& RefOf(void* handle) { return *static_cast<CommRef*>(handle); }

const char* MakeId(cuda::NcclId* id) {
  const char* base = std::getenv("CHOIR_FAKE_NCCL_DIR");
  const std::lock_guard lock(TheWorld().mu);
  const std::string folder =
      (fs::path(base != nullptr ? base : "/dev/shm") /
       ("fake-nccl-" + std::to_string(getpid()) + "-" + std::to_string(TheWorld().ids++)))
          .string();
  CHOIR_CHECK(folder.size() < sizeof id->bytes);
  fs::create_directories(folder);
  std::memcpy(id->bytes, folder.c_str(), folder.size() + 1);
  return nullptr;
}

const char* Connect(const cuda::NcclId& id, int32_t rank, int32_t size, void** handle) {
  auto comm = std::make_shared<Comm>();
  comm->folder = reinterpret_cast<const char*>(id.bytes);
  comm->rank = rank;
  comm->size = size;
  comm->sent.resize(static_cast<size_t>(size));
  comm->received.resize(static_cast<size_t>(size));
  {
    const std::lock_guard lock(TheWorld().mu);
    comm->faults = TheWorld().faults;
    ++TheWorld().handles;
  }
  if (comm->faults.unconnected_rank != rank) {
    Write(comm->folder / ("rank-" + std::to_string(rank)), nullptr, 0);
  }
  *handle = new CommRef(std::move(comm));
  return nullptr;
}

cuda::NcclState Poll(void* handle, const char** why) {
  Comm& comm = *RefOf(handle);
  if (comm.faults.failing_rank == comm.rank && comm.groups > comm.faults.failing_after) {
    *why = "unhandled cuda error";
    return cuda::NcclState::kFailed;
  }
  for (int32_t r = 0; !comm.connected && r < comm.size; ++r) {
    if (!Exists(comm.folder / ("rank-" + std::to_string(r)))) return cuda::NcclState::kWorking;
  }
  comm.connected = true;
  for (void** window : std::exchange(comm.unset, {})) *window = handle;
  return cuda::NcclState::kReady;
}

// Sends are posted, then everything is received, then sends are over when they were taken.
void Enqueue(EmulatedStream* stream, std::vector<Op> sends, std::vector<Op> receives) {
  for (const Op& op : sends) {
    stream->DoWhen({}, [op] {
      if (!op.comm->dead) Write(op.file, op.from, op.bytes);
    });
  }
  for (const Op& op : receives) {
    stream->DoWhen([op] { return op.comm->dead || Exists(op.file); },
                   [op] {
                     if (!op.comm->dead) Take(op);
                   });
  }
  for (const Op& op : sends) {
    stream->DoWhen([op] { return op.comm->dead || !Exists(op.file); }, [] {});
  }
}

void Count(Op* op, std::vector<Op>* sends, std::vector<Op>* receives) {
  Comm& comm = *op->comm;
  const auto peer = static_cast<size_t>(op->peer);
  const bool is_send = op->from != nullptr;
  const int32_t from = is_send ? comm.rank : op->peer, to = is_send ? op->peer : comm.rank;
  const uint64_t number = is_send ? comm.sent[peer]++ : comm.received[peer]++;
  op->file = comm.folder /
             (std::to_string(from) + "-" + std::to_string(to) + "-" + std::to_string(number));
  const bool silent =
      comm.faults.silent_rank == comm.rank && comm.groups > comm.faults.silent_after;
  if (is_send && silent) return;
  (is_send ? sends : receives)->push_back(std::move(*op));
}

const char* EndGroup() {
  if (staged.empty()) return nullptr;
  EmulatedStream* const stream = staged.front().stream;
  ++staged.front().op.comm->groups;
  std::vector<Op> sends, receives;
  for (Staged& s : staged) {
    CHOIR_CHECK(s.stream == stream);
    Count(&s.op, &sends, &receives);
  }
  staged.clear();
  Enqueue(stream, std::move(sends), std::move(receives));
  return nullptr;
}

const char* Send(void* comm, const void* from, size_t bytes, int32_t peer, void* stream) {
  staged.push_back({static_cast<EmulatedStream*>(stream),
                    {.comm = RefOf(comm),
                     .peer = peer,
                     .from = static_cast<const std::byte*>(from),
                     .bytes = bytes}});
  return nullptr;
}

const char* Recv(void* comm, void* to, size_t bytes, int32_t peer, void* stream) {
  staged.push_back(
      {static_cast<EmulatedStream*>(stream),
       {.comm = RefOf(comm), .peer = peer, .to = static_cast<std::byte*>(to), .bytes = bytes}});
  return nullptr;
}

// As NCCL may do it, too: straight to each.
const char* AllGather(void* handle, const void* from, void* to, size_t bytes, void* stream) {
  const Comm& comm = *RefOf(handle);
  auto* all = static_cast<std::byte*>(to);
  for (int32_t r = 0; r < comm.size; ++r) {
    std::byte* of_rank = all + static_cast<size_t>(r) * bytes;
    if (r == comm.rank) {
      static_cast<EmulatedStream*>(stream)->Do([=] { std::memcpy(of_rank, from, bytes); });
    } else {
      Send(handle, from, bytes, r, stream);
      Recv(handle, of_rank, bytes, r, stream);
    }
  }
  return nullptr;
}

const char* AllToAll(void* handle, const void* from, void* to, size_t bytes, void* stream) {
  const Comm& comm = *RefOf(handle);
  const auto* own = static_cast<const std::byte*>(from);
  auto* all = static_cast<std::byte*>(to);
  for (int32_t r = 0; r < comm.size; ++r) {
    const size_t at = static_cast<size_t>(r) * bytes;
    if (r == comm.rank) {
      static_cast<EmulatedStream*>(stream)->Do([=] { std::memcpy(all + at, own + at, bytes); });
    } else {
      Send(handle, own + at, bytes, r, stream);
      Recv(handle, all + at, bytes, r, stream);
    }
  }
  return nullptr;
}

void Abort(void* handle) {
  CommRef* comm = &RefOf(handle);
  (*comm)->dead = true;
  std::error_code gone;
  fs::remove((*comm)->folder / ("rank-" + std::to_string((*comm)->rank)), gone);
  bool last = true;
  for (int32_t r = 0; r < (*comm)->size; ++r) {
    last &= !Exists((*comm)->folder / ("rank-" + std::to_string(r)));
  }
  if (last) fs::remove_all((*comm)->folder, gone);
  const std::lock_guard lock(TheWorld().mu);
  TheWorld().windows -= (*comm)->windows;
  --TheWorld().handles;
  delete comm;
}

// Symmetric memory is the card's as any other.
const char* Allocate(size_t bytes, void** memory) {
  {
    const std::lock_guard lock(TheWorld().mu);
    const int32_t plain = TheWorld().faults.plain_card;
    if (plain == -2 || plain == emulation::CurrentCard()) return "no symmetric memory";
  }
  return emulation::EmulatedDevices().allocate(bytes, memory);
}

// As NCCL, sets the window later only.
const char* RegisterWindow(void* handle, void*, size_t, void** window) {
  Comm& comm = *RefOf(handle);
  if (comm.faults.unregistered_rank == comm.rank) return "unhandled system error";
  comm.unset.push_back(window);
  const std::lock_guard lock(TheWorld().mu);
  ++comm.windows;
  ++TheWorld().windows;
  return nullptr;
}

const char* Open(int32_t* version) {
  const std::lock_guard lock(TheWorld().mu);
  const FakeNcclFaults& faults = TheWorld().faults;
  const bool other = faults.other_version != 0 && TheWorld().opened++ % 2 == 1;
  *version = other ? faults.other_version : faults.version;
  return faults.open_error;
}

}  // namespace

const cuda::NcclTable& FakeNccl() {
  static const cuda::NcclTable table = [] {
    cuda::NcclTable t;
    t.open = Open;
    t.make_id = MakeId;
    t.connect = Connect;
    t.poll = Poll;
    t.begin_group = []() -> const char* { return nullptr; };
    t.end_group = EndGroup;
    t.send = Send;
    t.recv = Recv;
    t.all_gather = AllGather;
    t.all_to_all = AllToAll;
    t.allocate = Allocate;
    t.free = emulation::EmulatedDevices().free;
    t.register_window = RegisterWindow;
    t.abort = Abort;
    return t;
  }();
  return table;
}

void SetFakeNcclFaults(const FakeNcclFaults& faults) {
  const std::lock_guard lock(TheWorld().mu);
  TheWorld().faults = faults;
  TheWorld().opened = 0;
}

int64_t FakeNcclWindows() {
  const std::lock_guard lock(TheWorld().mu);
  return TheWorld().windows;
}

int64_t FakeNcclHandles() {
  const std::lock_guard lock(TheWorld().mu);
  return TheWorld().handles;
}

}  // namespace choir
