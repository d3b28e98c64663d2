// NCCL as plain functions, for worker/comm/nccl_collectives.h: communicators that never block. The
// library is opened when it is first needed; `const char*` results are null for success, else why
// not (static text). Free of CUDA, NCCL and abseil.
//
// Thread: one owner thread a communicator.
#pragma once

#include <cstddef>
#include <cstdint>

namespace choir::cuda {

enum class NcclState : int32_t { kReady, kWorking, kFailed };

inline constexpr size_t kNcclIdBytes = 128;
struct NcclId {
  std::byte bytes[kNcclIdBytes] = {};
};

struct NcclTable {
  const char* (*open)(int32_t* version) = nullptr;  // 22809 is 2.28.9; again is harmless
  const char* (*make_id)(NcclId*) = nullptr;        // at one rank
  // Begins to connect; the handle is ready when poll says so. `*comm` is set on success only.
  const char* (*connect)(const NcclId&, int32_t rank, int32_t size, void** comm) = nullptr;
  NcclState (*poll)(void* comm, const char** why) = nullptr;

  // send, recv, all_gather and all_to_all between begin_group and end_group go together; then poll
  // until kReady, and wait for the stream.
  const char* (*begin_group)() = nullptr;
  const char* (*end_group)() = nullptr;
  const char* (*send)(void* comm, const void* from, size_t bytes, int32_t peer,
                      void* stream) = nullptr;
  const char* (*recv)(void* comm, void* to, size_t bytes, int32_t peer, void* stream) = nullptr;
  // `bytes` of every rank, one after the other by rank.
  const char* (*all_gather)(void* comm, const void* from, void* to, size_t bytes,
                            void* stream) = nullptr;

  // To every rank `bytes`, and from every rank, one after the other by rank; the own part, too.
  const char* (*all_to_all)(void* comm, const void* from, void* to, size_t bytes,
                            void* stream) = nullptr;

  // Symmetric memory, of NCCL 2.27 or newer; else `allocate` fails, or all three are null. What was
  // registered (by all ranks together, then poll) ends with the communicator; its memory has to
  // stay so long, and so has `*window`: a thread of NCCL's sets it before poll says kReady.
  const char* (*allocate)(size_t bytes, void** memory) = nullptr;
  void (*free)(void* memory) = nullptr;
  const char* (*register_window)(void* comm, void* memory, size_t bytes, void** window) = nullptr;

  void (*abort)(void* comm) = nullptr;  // ends what runs, without the others; frees the handle
};

}  // namespace choir::cuda
