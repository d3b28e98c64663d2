#include "worker/device/table_device.h"

#include <functional>
#include <optional>
#include <utility>

#include "worker/device/measuring_device.h"

namespace choir {
namespace {

// What the driver takes by itself for kernels and their local memory.
constexpr size_t kSpareBytes = size_t{256} << 20;

std::string MiB(uint64_t bytes) { return fmt::format("{} MiB", (bytes + (1 << 20) - 1) >> 20); }

class TableLane final : public DeviceLane {
 public:
  // The rest is the device's: its waits, its stream and its guard.
  TableLane(const cuda::DeviceTable& table, const BoundedWait& wait, void* work,
            const std::function<Status()>* guard)
      : table_(table), wait_(wait), work_(work), guard_(*guard) {}
  ~TableLane() override {
    const bool opened = end_ != nullptr;
    if (opened && joined_) (void)wait_.For(work_, end_);  // which waits for the events here
    if (opened) (void)wait_.For(stream_, end_);
    if (stream_ != nullptr) table_.free_stream(stream_);
    if (begin_ != nullptr) table_.free_event(begin_);
    if (end_ != nullptr) table_.free_event(end_);
  }

  Status Open() {
    Take(table_.make_stream(&stream_));
    Take(table_.make_event(&begin_));
    Take(table_.make_event(&end_));
    return status_;
  }

  void Begin() override {
    follows_ = true;
    Take(table_.record(begin_, work_));
    Take(table_.wait_event(stream_, begin_));
  }
  void Copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) Take(table_.copy(to, from, bytes, stream_));
  }
  Status Wait() override {
    // Only the device's own thread may ask for its guard, and only what follows its work has to.
    WaitGuard guard{.look = follows_ && guard_ ? &guard_ : nullptr};
    if (status_.ok()) Take(wait_.For(stream_, end_, &guard));
    return status_.ok() ? guard.said : status_;
  }
  void Join() override {
    joined_ = true;
    Take(table_.record(end_, stream_));
    Take(table_.wait_event(work_, end_));
  }

 private:
  void Take(const char* error) {
    if (error != nullptr && status_.ok()) status_ = Unavailable("{}: {}", wait_.name(), error);
  }

  const cuda::DeviceTable& table_;
  const BoundedWait wait_;
  void* const work_;
  void* stream_ = nullptr;
  void *begin_ = nullptr, *end_ = nullptr;  // events
  const std::function<Status()>& guard_;
  bool follows_ = false, joined_ = false;
  Status status_;
};

class TableDevice final : public Device {
 public:
  TableDevice(const cuda::DeviceTable& table, int32_t index) : table_(table), index_(index) {}
  ~TableDevice() override {
    if (table_.use(index_) != nullptr) return;
    if (event_ != nullptr) (void)wait_->For(stream_, event_);
    if (stream_ != nullptr) table_.free_stream(stream_);
    if (event_ != nullptr) table_.free_event(event_);
    if (memory_ != nullptr) table_.free(memory_);
  }

  Status Open(const WaitBound& bound) {
    CHOIR_RETURN_IF_ERROR(Use());
    cuda::DeviceInfo info;
    if (const char* error = table_.info(index_, &info)) return Failed(error);
    name_ = fmt::format("cuda:{} ({})", index_, info.name);
    wait_.emplace(table_, name_, bound);
    if (const char* error = table_.make_stream(&stream_)) return Failed(error);
    if (const char* error = table_.make_event(&event_)) return Failed(error);
    return {};
  }

  std::string Name() const override { return name_; }
  bool ReadsHostMemory() const override { return false; }
  void* stream() const override { return stream_; }

  Status Use() override {
    if (const char* error = table_.use(index_)) return Failed(error);
    return {};
  }

  StatusOr<uint64_t> Room() override {
    uint64_t free = 0, total = 0;
    if (const char* error = table_.memory(&free, &total)) return Failed(error);
    const size_t spare = kSpareBytes + nccl_bytes_;
    return free > spare ? free - spare : 0;
  }
  void LeaveForNccl(size_t bytes) override { nccl_bytes_ = bytes; }

  StatusOr<std::unique_ptr<DeviceLane>> MakeLane() override {
    auto lane = std::make_unique<TableLane>(table_, *wait_, stream_, &guard_);
    CHOIR_RETURN_IF_ERROR(lane->Open());
    return lane;
  }

  Status Reserve(size_t bytes) override {
    CHOIR_CHECK(memory_ == nullptr);
    uint64_t free = 0, total = 0;
    if (const char* error = table_.memory(&free, &total)) return Failed(error);
    if (bytes + kSpareBytes + nccl_bytes_ > free) {
      const std::string nccl =
          nccl_bytes_ > 0 ? fmt::format(" and {} for NCCL", MiB(nccl_bytes_)) : "";
      return ResourceExhausted("{}: {} are needed, and {} for the driver{}; {} of its {} are free",
                               name_, MiB(bytes), MiB(kSpareBytes), nccl, MiB(free), MiB(total));
    }
    void* memory = nullptr;
    if (const char* error = table_.allocate(bytes, &memory)) {
      return ResourceExhausted("{}: {} could not be had in one piece: {}", name_, MiB(bytes),
                               error);
    }
    memory_ = static_cast<std::byte*>(memory);
    reserved_ = bytes;
    return {};
  }

  StatusOr<DeviceBuffer> Allocate(size_t bytes) override {
    const size_t taken = AlignedBytes(bytes);
    if (taken > reserved_ - used_) {
      return ResourceExhausted("{}: {} bytes do not fit: {} of {} that were reserved are in use",
                               name_, bytes, used_, reserved_);
    }
    std::byte* at = memory_ + used_;
    used_ += taken;
    return DeviceBuffer({at, [](std::byte*) {}}, bytes);
  }

  StatusOr<DeviceBuffer> AllocateHost(size_t bytes) override {
    void* memory = nullptr;
    if (const char* error = table_.allocate_pinned(bytes, &memory)) {
      return ResourceExhausted(
          "{}: {} of pinned host memory could not be had, lower worker.step_tokens: {}", name_,
          MiB(bytes), error);
    }
    return DeviceBuffer({static_cast<std::byte*>(memory), table_.free_pinned}, bytes);
  }

  void Copy(void* to, const void* from, size_t bytes) override {
    if (bytes == 0 || !status_.ok()) return;
    if (const char* error = table_.copy(to, from, bytes, stream_)) status_ = Failed(error);
  }

  bool HasGraphs() const override { return table_.begin_graph != nullptr; }
  Status BeginGraph() override {
    if (const char* error = table_.begin_graph(stream_)) return Failed(error);
    return {};
  }
  StatusOr<DeviceGraph> EndGraph() override {
    void* graph = nullptr;
    if (const char* error = table_.end_graph(stream_, &graph)) return Failed(error);
    return DeviceGraph(graph, table_.free_graph);
  }
  void RunGraph(const DeviceGraph& graph) override {
    if (!status_.ok()) return;
    if (const char* error = table_.run_graph(graph.get(), stream_)) status_ = Failed(error);
  }

  Status Wait() override {
    if (!status_.ok()) return status_;
    WaitGuard guard{.look = guard_ ? &guard_ : nullptr};
    const char* error = wait_->For(stream_, event_, &guard);
    if (error == nullptr) error = table_.poll();
    if (error != nullptr) status_ = Failed(error);
    return status_.ok() ? guard.said : status_;
  }
  void Guard(std::function<Status()> look) override { guard_ = std::move(look); }
  Status status() const override { return status_; }

 private:
  Status Failed(const char* error) const {
    return Unavailable("{}: {}", name_.empty() ? fmt::format("cuda:{}", index_) : name_, error);
  }

  const cuda::DeviceTable& table_;
  const int32_t index_;
  std::string name_;
  void* stream_ = nullptr;
  void* event_ = nullptr;            // of waits
  std::optional<BoundedWait> wait_;  // once there is a name
  std::function<Status()> guard_;
  std::byte* memory_ = nullptr;
  size_t reserved_ = 0, used_ = 0;
  size_t nccl_bytes_ = 0;  // that Reserve leaves
  Status status_;
};

}  // namespace

StatusOr<std::unique_ptr<Device>> MakeTableDevice(const cuda::DeviceTable& table, int32_t index,
                                                  const WaitBound& bound) {
  auto device = std::make_unique<TableDevice>(table, index);
  CHOIR_RETURN_IF_ERROR(device->Open(bound));
  return std::unique_ptr<Device>(std::move(device));
}

}  // namespace choir
