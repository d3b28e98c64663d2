#include "tests/support/gpu_emulation/emulated_kernels.h"

#include <cstring>
#include <vector>

#include "kernels/cuda/hopper/hopper_table.cuh"
#include "kernels/cuda/simple/simple_table.cuh"
#include "kernels/cuda/tensor/attention.cuh"
#include "kernels/cuda/tensor/choices.cuh"
#include "kernels/cuda/tensor/fast_rows.cuh"
#include "kernels/cuda/tensor/products.cuh"
#include "tests/support/gpu_emulation/emulated_device.h"

namespace choir::emulation {
namespace {

// Kept for the next launch: its stacks are a good part of a small one's time.
BlockScheduler& SchedulerOf(Order order) {
  thread_local BlockScheduler schedulers[] = {BlockScheduler(Order::kForward),
                                              BlockScheduler(Order::kBackward),
                                              BlockScheduler(Order::kShuffled)};
  return schedulers[static_cast<size_t>(order)];
}

thread_local cuda::CardLimits emulated_card = kEmulatedCard;
thread_local bool maps_refused = false;
thread_local size_t upload_max = SIZE_MAX;
thread_local int64_t kernels_started = 0;

class EmulatedRunner {
 public:
  explicit EmulatedRunner(const cuda::KernelStream& stream) : stream_(stream) {}

  template <class Kernel>
  void operator()(const cuda::Grid& grid, const Kernel& kernel) const {
    if (grid.shared_bytes > emulated_card.shared_bytes) return LeaveLaunchError("invalid argument");
    const Order order = stream().order;
    ++kernels_started;
    stream().Do([grid, kernel, order] { SchedulerOf(order).RunKernel(grid, kernel); });
  }
  // Taken over before it returns, so it may not be in a graph.
  void Copy(void* to, const void* from, size_t bytes) const {
    if (stream().recording != nullptr) stream().spoiled = true;
    if (bytes > upload_max) LeaveLaunchError("an op copies values of the host by itself");
    const auto* begin = static_cast<const std::byte*>(from);
    stream().Do([to, taken = std::vector<std::byte>(begin, begin + bytes)] {
      std::memcpy(to, taken.data(), taken.size());
    });
  }
  std::span<std::byte> workspace() const { return stream_.workspace; }
  cuda::CardLimits card() const { return emulated_card; }

 private:
  EmulatedStream& stream() const {
    void* native = stream_.native;
    return *static_cast<EmulatedStream*>(native != nullptr ? native
                                                           : StreamInOrder(Order::kForward));
  }
  cuda::KernelStream stream_;
};

class EmulatedHopperRunner : public EmulatedRunner {
 public:
  explicit EmulatedHopperRunner(const cuda::KernelStream& stream) : EmulatedRunner(stream) {}

  // What the driver asks of a map.
  bool MakeMap(const cuda::MapShape& shape, cuda::TensorMap* map) const {
    static_assert(sizeof shape <= sizeof *map);
    CHOIR_CHECK(reinterpret_cast<uintptr_t>(shape.data) % 16 == 0 && shape.pitch % 16 == 0);
    CHOIR_CHECK(shape.rows > 0 && shape.width > 0 && shape.box_rows > 0 && shape.box_rows <= 256);
    CHOIR_CHECK(shape.pitch >= BytesOf(shape.dtype, shape.width));
    if (maps_refused) LeaveLaunchError("the driver refused a map of a tensor");
    if (maps_refused) return false;
    std::memcpy(map, &shape, sizeof shape);
    return true;
  }
};

}  // namespace

void SetEmulatedCard(const cuda::CardLimits& limits) { emulated_card = limits; }

void RefuseMaps(bool refuse) { maps_refused = refuse; }

void LimitUploads(size_t bytes) { upload_max = bytes; }

int64_t KernelsStarted() { return kernels_started; }

const cuda::KernelTable& EmulatedTable() {
  static const cuda::KernelTable table = [] {
    cuda::KernelTable t;
    t.name = "cuda-simple-emulated";
    cuda::FillRows<EmulatedRunner>(&t);
    cuda::FillProducts<EmulatedRunner>(&t);
    cuda::FillChoices<EmulatedRunner>(&t);
    return t;
  }();
  return table;
}

const cuda::KernelTable& EmulatedTensorTable() {
  static const cuda::KernelTable table = [] {
    cuda::KernelTable t = EmulatedTable();
    t.name = "cuda-tensor-emulated";
    cuda::FillTensor<EmulatedRunner>(&t);
    cuda::FillTensorAttention<EmulatedRunner>(&t);
    cuda::FillTensorChoices<EmulatedRunner>(&t);
    cuda::FillTensorRows<EmulatedRunner>(&t);
    return t;
  }();
  return table;
}

const cuda::KernelTable& EmulatedHopperTable() {
  static const cuda::KernelTable table = [] {
    cuda::KernelTable t = EmulatedTensorTable();
    t.name = "cuda-hopper-emulated";
    cuda::FillHopper<EmulatedHopperRunner>(&t);
    return t;
  }();
  return table;
}

}  // namespace choir::emulation
