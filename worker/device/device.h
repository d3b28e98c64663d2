// Device: where a rank's weights, KV and activations lie, and how bytes get there and back. On the
// CPU that is the host's own memory and nothing is copied. On a GPU kernels and copies go into one
// ordered stream, and the host sees what they did after Wait. The model and the engine hold buffers
// of the device and pass views of them to kernels; the host reads or writes them through Copy and
// StagedBuffer only.
//
// Owned by the process; outlives what is made with it. One thread at a time, which has called Use:
// the one that loads, then the engine's. All memory is allocated when a model and its engine are
// made, none in a step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "common/base/check.h"
#include "common/base/status.h"

namespace choir {

// Owned memory, 64-byte aligned. Copies of the handle share it.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::shared_ptr<std::byte> memory, size_t size)
      : memory_(std::move(memory)), size_(size) {}
  std::byte* data() const { return memory_.get(); }
  size_t size() const { return size_; }

 private:
  std::shared_ptr<std::byte> memory_;
  size_t size_ = 0;
};

// Work of a device that can be enqueued again. Freed before the device.
using DeviceGraph = std::shared_ptr<void>;

// Copies beside the work of a device, in an order of their own, so that the device computes while
// they run. Of one thread, which has called Use: the device's, or another that neither calls Begin
// nor Join. Errors are as Device::Wait's, which says them, too. Ends before its device.
class DeviceLane {
 public:
  virtual ~DeviceLane() = default;
  // What follows here takes place after the device's work so far.
  virtual void Begin() = 0;
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;  // as Device::Copy, but here
  virtual Status Wait() = 0;  // until all copies so far are done
  // The device's work from now on takes place after the copies so far.
  virtual void Join() = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string Name() const = 0;             // "cpu", "cuda:0 (NVIDIA H200)"
  virtual bool ReadsHostMemory() const = 0;         // then its memory is the host's
  virtual void* stream() const { return nullptr; }  // Stream::native of its kernels

  virtual Status Use() { return {}; }  // by this thread, from now on
  // Takes the memory that all calls of Allocate will share; once. ResourceExhausted, with what is
  // wanted and what is there. Devices that read the host's memory take it as it comes.
  virtual Status Reserve(size_t bytes) = 0;
  // How much Reserve does not take beyond what the driver needs: NCCL takes it by itself when an
  // epoch begins. Before Reserve.
  virtual void LeaveForNccl(size_t bytes) { (void)bytes; }
  // What Reserve could take now, of a device that has memory of its own.
  virtual StatusOr<uint64_t> Room() { return UINT64_MAX; }
  // Contents are undefined. ResourceExhausted when the reserve is used up.
  virtual StatusOr<DeviceBuffer> Allocate(size_t bytes) = 0;
  // The host's side of copies.
  virtual StatusOr<DeviceBuffer> AllocateHost(size_t bytes) = 0;

  // Takes place after all earlier work; memory of the host (AllocateHost's) stays as it is until
  // Wait.
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;
  // Graphs. What is enqueued between Begin and End does not take place but becomes a graph, which
  // RunGraph enqueues as often as it likes: the same kernels with the same arguments, the same
  // copies between the same places. An error of Begin or End means that there is no graph, and
  // nothing else; after an error of Begin there is no End.
  virtual bool HasGraphs() const { return false; }
  virtual Status BeginGraph() { return Unimplemented("{}: it has no graphs", Name()); }
  virtual StatusOr<DeviceGraph> EndGraph() { return Unimplemented("{}: it has no graphs", Name()); }
  virtual void RunGraph(const DeviceGraph&) { CHOIR_CHECK(false); }

  // REQUIRES: !ReadsHostMemory(). Null on a device that only measures.
  virtual StatusOr<std::unique_ptr<DeviceLane>> MakeLane() {
    return Unimplemented("{}: copies need no lane, it reads the host's memory", Name());
  }
  // Until all work so far is done. The first error of a kernel or copy is the answer of this and
  // all later calls: the process has to be started again.
  virtual Status Wait() { return {}; }
  // Where work waits for other ranks, Wait asks `look` again and again. An error of it is the
  // answer of that Wait; by then nothing that is enqueued waits for others any more. Empty: nobody
  // is asked.
  virtual void Guard(std::function<Status()> look) { (void)look; }
  virtual Status status() const { return {}; }  // that error, without waiting
};

// The CPU: one for the process, never freed, any thread.
Device& HostDevice();

// Memory that the host and the device both know: one area where the device reads the host's, else
// two and copies between them. Sizes in bytes.
class StagedBuffer {
 public:
  StagedBuffer() = default;
  static StatusOr<StagedBuffer> Make(Device* device, size_t bytes) {
    StagedBuffer b;
    b.owner_ = device;
    CHOIR_ASSIGN_OR_RETURN(b.device_, device->Allocate(bytes));
    b.host_ = b.device_;
    if (!device->ReadsHostMemory()) {
      CHOIR_ASSIGN_OR_RETURN(b.host_, device->AllocateHost(bytes));
    }
    return b;
  }

  std::byte* device() const { return device_.data(); }
  std::byte* host() const { return host_.data(); }
  size_t bytes() const { return device_.size(); }

  void Upload(size_t begin, size_t bytes) const {
    if (device() != host()) owner_->Copy(device() + begin, host() + begin, bytes);
  }
  // The host may read it after Wait.
  void Download(size_t begin, size_t bytes) const {
    if (device() != host()) owner_->Copy(host() + begin, device() + begin, bytes);
  }
  // Where the device reads `values`: where they are, or a copy at `begin`. They stay as they are,
  // and nothing else is put there, until Wait.
  template <class T>
  const T* Put(std::span<const T> values, size_t begin = 0) const {
    if (device() == host()) return values.data();
    CHOIR_CHECK(begin + values.size_bytes() <= host_.size());
    if (!values.empty()) std::memcpy(host() + begin, values.data(), values.size_bytes());
    if (!values.empty()) Upload(begin, values.size_bytes());
    return reinterpret_cast<const T*>(device() + begin);
  }

 private:
  Device* owner_ = nullptr;
  DeviceBuffer device_, host_;
};

}  // namespace choir
