// NcclTable over libnccl.so.2, the only file that includes nccl.h. Opened by name, so that the
// module does not need 218 MB where one GPU works alone.
#include <dlfcn.h>
#include <nccl.h>

#include <cstring>

#include "kernels/cuda/module_parts.h"

namespace choir::cuda {
namespace {

struct Library {
  const char* error = "NCCL has not been opened";
  int version = 0;
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) recv = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclAlltoAll) all_to_all = nullptr;  // of 2.28
  decltype(&ncclCommAbort) abort = nullptr;
  // Of newer ones.
  decltype(&ncclMemAlloc) allocate = nullptr;
  decltype(&ncclMemFree) free = nullptr;
  decltype(&ncclCommWindowRegister) register_window = nullptr;
};

template <class Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

Library OpenLibrary() {
  Library l;
  void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    l.error =
        "libnccl.so.2 cannot be opened: install NCCL 2.28 or newer, or name its folder in "
        "LD_LIBRARY_PATH";
    return l;
  }
  const bool whole =
      Find(library, "ncclGetVersion", &l.get_version) &&
      Find(library, "ncclGetUniqueId", &l.get_unique_id) &&
      Find(library, "ncclCommInitRankConfig", &l.init) &&
      Find(library, "ncclCommGetAsyncError", &l.async_error) &&
      Find(library, "ncclGetErrorString", &l.error_string) &&
      Find(library, "ncclGroupStart", &l.group_start) &&
      Find(library, "ncclGroupEnd", &l.group_end) && Find(library, "ncclSend", &l.send) &&
      Find(library, "ncclRecv", &l.recv) && Find(library, "ncclAllGather", &l.all_gather) &&
      Find(library, "ncclAlltoAll", &l.all_to_all) && Find(library, "ncclCommAbort", &l.abort);
  l.error = whole ? nullptr : "libnccl.so.2 lacks functions: install NCCL 2.28 or newer";
  if (whole) (void)l.get_version(&l.version);
  const bool windows = whole && Find(library, "ncclMemAlloc", &l.allocate) &&
                       Find(library, "ncclMemFree", &l.free) &&
                       Find(library, "ncclCommWindowRegister", &l.register_window);
  if (!windows) l.register_window = nullptr;
  return l;
}

const Library& Nccl() {
  static const Library library = OpenLibrary();
  return library;
}

// Calls of a communicator that does not block answer "in progress".
const char* Why(ncclResult_t result) {
  return result == ncclSuccess || result == ncclInProgress ? nullptr : Nccl().error_string(result);
}

ncclComm_t CommOf(void* comm) { return static_cast<ncclComm_t>(comm); }

const char* Connect(const NcclId& id, int32_t rank, int32_t size, void** comm) {
  if (Nccl().error != nullptr) return Nccl().error;
  ncclUniqueId unique;
  static_assert(sizeof unique == kNcclIdBytes);
  std::memcpy(&unique, id.bytes, sizeof unique);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t made = nullptr;
  const char* error = Why(Nccl().init(&made, size, unique, rank, &config));
  if (error == nullptr) *comm = made;
  return error;
}

NcclState Poll(void* comm, const char** why) {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = Nccl().async_error(CommOf(comm), &state);
  if (asked != ncclSuccess) state = asked;
  if (state == ncclSuccess) return NcclState::kReady;
  if (state == ncclInProgress) return NcclState::kWorking;
  *why = Nccl().error_string(state);
  return NcclState::kFailed;
}

}  // namespace

void FillWindows(NcclTable* t) {
  t->allocate = [](size_t bytes, void** memory) -> const char* {
    if (Nccl().register_window == nullptr) return "this NCCL has no symmetric memory";
    return Why(Nccl().allocate(memory, bytes));
  };
  t->free = [](void* memory) { (void)Nccl().free(memory); };
  t->register_window = [](void* comm, void* memory, size_t bytes, void** window) {
    static_assert(sizeof(ncclWindow_t) == sizeof(void*));
    return Why(Nccl().register_window(CommOf(comm), memory, bytes,
                                      reinterpret_cast<ncclWindow_t*>(window),
                                      NCCL_WIN_COLL_SYMMETRIC));
  };
}

void FillNccl(NcclTable* t) {
  t->open = [](int32_t* version) {
    *version = Nccl().version;
    return Nccl().error;
  };
  t->make_id = [](NcclId* id) -> const char* {
    if (Nccl().error != nullptr) return Nccl().error;
    ncclUniqueId unique;
    const char* error = Why(Nccl().get_unique_id(&unique));
    std::memcpy(id->bytes, &unique, sizeof unique);
    return error;
  };
  t->connect = Connect;
  FillWindows(t);
  t->poll = Poll;
  t->begin_group = [] { return Why(Nccl().group_start()); };
  t->end_group = [] { return Why(Nccl().group_end()); };
  t->send = [](void* comm, const void* from, size_t bytes, int32_t peer, void* stream) {
    return Why(
        Nccl().send(from, bytes, ncclUint8, peer, CommOf(comm), static_cast<cudaStream_t>(stream)));
  };
  t->recv = [](void* comm, void* to, size_t bytes, int32_t peer, void* stream) {
    return Why(
        Nccl().recv(to, bytes, ncclUint8, peer, CommOf(comm), static_cast<cudaStream_t>(stream)));
  };
  t->all_gather = [](void* comm, const void* from, void* to, size_t bytes, void* stream) {
    return Why(Nccl().all_gather(from, to, bytes, ncclUint8, CommOf(comm),
                                 static_cast<cudaStream_t>(stream)));
  };
  t->all_to_all = [](void* comm, const void* from, void* to, size_t bytes, void* stream) {
    return Why(Nccl().all_to_all(from, to, bytes, ncclUint8, CommOf(comm),
                                 static_cast<cudaStream_t>(stream)));
  };
  t->abort = [](void* comm) { (void)Nccl().abort(CommOf(comm)); };
}

}  // namespace choir::cuda
