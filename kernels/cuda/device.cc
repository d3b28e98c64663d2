// DeviceTable over the CUDA runtime.
#include <cuda_runtime.h>

#include <cstdio>

#include "kernels/cuda/early_starts.h"
#include "kernels/cuda/launch_error.h"
#include "kernels/cuda/module_parts.h"

namespace choir::cuda {
namespace {

const char* Why(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

cudaStream_t StreamOf(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t EventOf(void* event) { return static_cast<cudaEvent_t>(event); }

Probe ProbeMachine(int32_t* num_devices, char* detail, size_t detail_bytes) {
  int driver = 0;
  int runtime = 0;
  int count = 0;
  (void)cudaDriverGetVersion(&driver);
  (void)cudaRuntimeGetVersion(&runtime);
  const cudaError_t error = cudaGetDeviceCount(&count);
  *num_devices = error == cudaSuccess ? count : 0;
  if (driver == 0) {
    std::snprintf(detail, detail_bytes, "this build is for CUDA %d.%d", runtime / 1000,
                  runtime % 1000 / 10);
  } else {
    std::snprintf(detail, detail_bytes, "%s; the driver knows CUDA %d.%d, this build is for %d.%d",
                  cudaGetErrorString(error), driver / 1000, driver % 1000 / 10, runtime / 1000,
                  runtime % 1000 / 10);
  }
  (void)cudaGetLastError();  // not sticky: nothing has run yet
  if (driver == 0) return Probe::kNoDriver;
  if (error == cudaErrorInsufficientDriver) return Probe::kOldDriver;
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) return Probe::kNoDevice;
  if (error == cudaErrorSystemNotReady) return Probe::kNoDaemon;
  if (error == cudaErrorSystemDriverMismatch) return Probe::kMismatch;
  return error == cudaSuccess ? Probe::kReady : Probe::kFailed;
}

const char* Info(int32_t device, DeviceInfo* info) {
  cudaDeviceProp properties;
  if (const cudaError_t e = cudaGetDeviceProperties(&properties, device)) return Why(e);
  std::snprintf(info->name, sizeof info->name, "%s", properties.name);
  if (cudaDeviceGetPCIBusId(info->bus_id, sizeof info->bus_id, device) != cudaSuccess) {
    return "its bus id cannot be had";
  }
  info->major = properties.major;
  info->minor = properties.minor;
  info->processors = properties.multiProcessorCount;
  info->memory_bytes = properties.totalGlobalMem;
  (void)cudaDriverGetVersion(&info->driver_version);
  (void)cudaRuntimeGetVersion(&info->runtime_version);
  return nullptr;
}

const char* Memory(uint64_t* free_bytes, uint64_t* total_bytes) {
  size_t free = 0;
  size_t total = 0;
  const cudaError_t error = cudaMemGetInfo(&free, &total);
  *free_bytes = free;
  *total_bytes = total;
  return Why(error);
}

// Of a call whose failure its caller is told, and may live with: poll has to forget it. A sticky
// error is there again after that.
const char* Told(cudaError_t error) {
  if (error != cudaSuccess) (void)cudaGetLastError();
  return Why(error);
}

const char* MakeStream(void** stream) {
  cudaStream_t made = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
  *stream = made;
  return Why(error);
}

const char* MakeEvent(void** event) {
  cudaEvent_t made = nullptr;
  const cudaError_t error = cudaEventCreate(&made);
  *event = made;
  return Why(error);
}

// The runtime may remember "not ready" as its last error, in place of one that poll has to find.
const char* IsDone(void* event, bool* done) {
  if (const cudaError_t earlier = cudaPeekAtLastError()) KeepLaunchError(Why(earlier));
  const cudaError_t error = cudaEventQuery(EventOf(event));
  *done = error == cudaSuccess;
  if (error != cudaErrorNotReady) return Why(error);
  (void)cudaGetLastError();
  return nullptr;
}

const char* Poll() {
  const char* kept = launch_error.load();
  return kept != nullptr ? kept : Why(cudaPeekAtLastError());
}

void Forget() {
  launch_error.store(nullptr);
  (void)cudaGetLastError();
}

// What was not allowed in a capture ends it, and is no error of the device. The card's memory for
// the graph is taken here and not by the first run, where having none would end the process.
const char* EndGraph(void* stream, void** graph) {
  cudaGraph_t captured = nullptr;
  *graph = nullptr;
  if (const cudaError_t e = cudaStreamEndCapture(StreamOf(stream), &captured)) return Told(e);
  cudaGraphExec_t made = nullptr;
  cudaError_t error = cudaGraphInstantiate(&made, captured, 0);
  (void)cudaGraphDestroy(captured);
  if (error != cudaSuccess) return Told(error);
  error = cudaGraphUpload(made, StreamOf(stream));
  if (error != cudaSuccess) {
    (void)cudaGraphExecDestroy(made);
    return Told(error);
  }
  *graph = made;
  return nullptr;
}

void FillMemory(DeviceTable* t) {
  t->allocate = [](size_t bytes, void** memory) { return Told(cudaMalloc(memory, bytes)); };
  t->allocate_managed = [](size_t bytes, void** memory) {
    return Told(cudaMallocManaged(memory, bytes, cudaMemAttachGlobal));
  };
  t->free = [](void* memory) { (void)cudaFree(memory); };
  t->allocate_pinned = [](size_t bytes, void** memory) {
    return Told(cudaMallocHost(memory, bytes));
  };
  t->free_pinned = [](void* memory) { (void)cudaFreeHost(memory); };
  t->copy = [](void* to, const void* from, size_t bytes, void* stream) {
    return Why(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, StreamOf(stream)));
  };
}

void FillStreams(DeviceTable* t) {
  t->make_stream = MakeStream;
  t->free_stream = [](void* stream) { (void)cudaStreamDestroy(StreamOf(stream)); };
  t->wait_stream = [](void* stream) { return Why(cudaStreamSynchronize(StreamOf(stream))); };
  t->make_event = MakeEvent;
  t->free_event = [](void* event) { (void)cudaEventDestroy(EventOf(event)); };
  t->record = [](void* event, void* stream) {
    return Why(cudaEventRecord(EventOf(event), StreamOf(stream)));
  };
  t->wait_event = [](void* stream, void* event) {
    return Why(cudaStreamWaitEvent(StreamOf(stream), EventOf(event), 0));
  };
  t->is_done = IsDone;
  t->elapsed = [](void* from, void* to, float* milliseconds) {
    return Why(cudaEventElapsedTime(milliseconds, EventOf(from), EventOf(to)));
  };
  t->begin_graph = [](void* stream) {
    return Told(cudaStreamBeginCapture(StreamOf(stream), cudaStreamCaptureModeThreadLocal));
  };
  t->end_graph = EndGraph;
  t->run_graph = [](void* graph, void* stream) {
    return Why(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), StreamOf(stream)));
  };
  t->free_graph = [](void* graph) {
    (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
  };
}

}  // namespace

void FillDevice(DeviceTable* table) {
  table->probe = ProbeMachine;
  table->info = Info;
  table->use = [](int32_t device) { return Why(cudaSetDevice(device)); };
  table->memory = Memory;
  FillMemory(table);
  FillStreams(table);
  table->allow_early_starts = [](bool allow) { early_starts.store(allow); };
  table->poll = Poll;
  table->forget = Forget;
}

}  // namespace choir::cuda
