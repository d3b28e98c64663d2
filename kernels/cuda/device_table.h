// What the CUDA module does with the device besides kernels: memory, streams, events, graphs. Plain
// functions over opaque handles; `const char*` results are null for success, else why not (static
// text). Free of CUDA and of abseil.
//
// Thread: one a stream, which has called use: the rank's owner thread, or that of a lane
// (worker/device/device.h). poll and free_pinned: any. Errors of kernels are sticky: once poll says
// one, the process has to end and be started again. That of a start which was refused is one as
// well, as what should have run did not: only who asked for it on trial may forget it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace choir::cuda {

enum class Probe : int32_t {
  kReady,
  kNoDriver,
  kOldDriver,
  kNoDevice,
  kNoDaemon,  // that the driver needs
  kMismatch,  // of the driver's parts
  kFailed
};

struct DeviceInfo {
  char name[256] = {};
  char bus_id[32] = {};          // "0000:3b:00.0": the same for parts of one card
  int32_t major = 0, minor = 0;  // compute capability: 9.0 is Hopper
  int32_t processors = 0;
  uint64_t memory_bytes = 0;
  int32_t driver_version = 0;   // 13000 is 13.0
  int32_t runtime_version = 0;  // what the module was built with
};

struct DeviceTable {
  // What this machine has; never fails otherwise. `detail`: the runtime's words, or empty.
  Probe (*probe)(int32_t* num_devices, char* detail, size_t detail_bytes) = nullptr;
  const char* (*info)(int32_t device, DeviceInfo*) = nullptr;
  const char* (*use)(int32_t device) = nullptr;  // of this thread, for all that follows
  const char* (*memory)(uint64_t* free_bytes, uint64_t* total_bytes) = nullptr;

  const char* (*allocate)(size_t bytes, void**) = nullptr;
  const char* (*allocate_managed)(size_t bytes, void**) = nullptr;  // host and device read it
  void (*free)(void*) = nullptr;
  const char* (*allocate_pinned)(size_t bytes, void**) = nullptr;  // host memory that copies fast
  void (*free_pinned)(void*) = nullptr;
  // Between any two kinds of memory; the host's is to stay until the stream has come so far.
  const char* (*copy)(void* to, const void* from, size_t bytes, void* stream) = nullptr;

  const char* (*make_stream)(void**) = nullptr;
  void (*free_stream)(void*) = nullptr;
  const char* (*wait_stream)(void*) = nullptr;  // until all enqueued work is done
  const char* (*make_event)(void**) = nullptr;
  void (*free_event)(void*) = nullptr;
  const char* (*record)(void* event, void* stream) = nullptr;
  const char* (*wait_event)(void* stream, void* event) = nullptr;  // the stream waits, not the host
  const char* (*is_done)(void* event, bool*) = nullptr;  // says no error of a start, as poll does
  const char* (*elapsed)(void* from, void* to, float* milliseconds) = nullptr;  // of done events

  // Work enqueued between the two becomes a graph instead of running; run_graph enqueues it all.
  // An error of either leaves the stream as it was before, and no graph.
  const char* (*begin_graph)(void* stream) = nullptr;
  const char* (*end_graph)(void* stream, void** graph) = nullptr;
  const char* (*run_graph)(void* graph, void* stream) = nullptr;
  void (*free_graph)(void*) = nullptr;

  // At first they are: kernels may start while the one ahead of them on their stream still runs, on
  // cards that can. Of what is started or captured from now on, by any thread. For finding faults.
  void (*allow_early_starts)(bool) = nullptr;

  const char* (*poll)() = nullptr;  // an error that a kernel, its start or a copy has left behind
  void (*forget)() = nullptr;       // it; one of the card itself is there again with its next work
};

}  // namespace choir::cuda
