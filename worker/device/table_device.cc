#include "worker/device/table_device.h"

#include "worker/device/measuring_device.h"

namespace choir {
namespace {

// What the driver takes by itself for kernels and their local memory.
constexpr size_t kSpareBytes = size_t{256} << 20;

std::string MiB(uint64_t bytes) { return fmt::format("{} MiB", (bytes + (1 << 20) - 1) >> 20); }

class TableDevice final : public Device {
 public:
  TableDevice(const cuda::DeviceTable& table, int32_t index) : table_(table), index_(index) {}
  ~TableDevice() override {
    if (table_.use(index_) != nullptr) return;
    if (stream_ != nullptr) {
      (void)table_.wait_stream(stream_);
      table_.free_stream(stream_);
    }
    if (memory_ != nullptr) table_.free(memory_);
  }

  Status Open() {
    CHOIR_RETURN_IF_ERROR(Use());
    cuda::DeviceInfo info;
    if (const char* error = table_.info(index_, &info)) return Failed(error);
    name_ = fmt::format("cuda:{} ({})", index_, info.name);
    if (const char* error = table_.make_stream(&stream_)) return Failed(error);
    return {};
  }

  std::string Name() const override { return name_; }
  bool ReadsHostMemory() const override { return false; }
  void* stream() const override { return stream_; }

  Status Use() override {
    if (const char* error = table_.use(index_)) return Failed(error);
    return {};
  }

  Status Reserve(size_t bytes) override {
    CHOIR_CHECK(memory_ == nullptr);
    uint64_t free = 0, total = 0;
    if (const char* error = table_.memory(&free, &total)) return Failed(error);
    if (bytes + kSpareBytes > free) {
      return ResourceExhausted("{}: {} are needed, and {} for the driver; {} of its {} are free",
                               name_, MiB(bytes), MiB(kSpareBytes), MiB(free), MiB(total));
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
      return ResourceExhausted("{}: {} of pinned host memory could not be had: {}", name_,
                               MiB(bytes), error);
    }
    return DeviceBuffer({static_cast<std::byte*>(memory), table_.free_pinned}, bytes);
  }

  void Copy(void* to, const void* from, size_t bytes) override {
    if (bytes == 0 || !status_.ok()) return;
    if (const char* error = table_.copy(to, from, bytes, stream_)) status_ = Failed(error);
  }

  Status Wait() override {
    if (!status_.ok()) return status_;
    const char* error = table_.wait_stream(stream_);
    if (error == nullptr) error = table_.poll();
    if (error != nullptr) status_ = Failed(error);
    return status_;
  }
  Status status() const override { return status_; }

 private:
  Status Failed(const char* error) const {
    return Unavailable("{}: {}", name_.empty() ? fmt::format("cuda:{}", index_) : name_, error);
  }

  const cuda::DeviceTable& table_;
  const int32_t index_;
  std::string name_;
  void* stream_ = nullptr;
  std::byte* memory_ = nullptr;
  size_t reserved_ = 0, used_ = 0;
  Status status_;
};

}  // namespace

StatusOr<std::unique_ptr<Device>> MakeTableDevice(const cuda::DeviceTable& table, int32_t index) {
  auto device = std::make_unique<TableDevice>(table, index);
  CHOIR_RETURN_IF_ERROR(device->Open());
  return std::unique_ptr<Device>(std::move(device));
}

}  // namespace choir
