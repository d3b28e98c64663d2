#include "tests/support/gpu_emulation/emulated_kernels.h"

#include <cstring>
#include <vector>

#include "kernels/cuda/simple/simple_table.cuh"
#include "kernels/cuda/tensor/products.cuh"

namespace choir::emulation {
namespace {

// Kept for the next launch: its stacks are a good part of a small one's time.
BlockScheduler& SchedulerOf(Order order) {
  thread_local BlockScheduler schedulers[] = {BlockScheduler(Order::kForward),
                                              BlockScheduler(Order::kBackward),
                                              BlockScheduler(Order::kShuffled)};
  return schedulers[static_cast<size_t>(order)];
}

class EmulatedRunner {
 public:
  explicit EmulatedRunner(const cuda::KernelStream& stream) : stream_(stream) {}

  template <class Kernel>
  void operator()(const cuda::Grid& grid, const Kernel& kernel) const {
    const Order order = stream().order;
    stream().Do([grid, kernel, order] {
      SchedulerOf(order).Run(grid, [&kernel](EmulatedBlock& block) { kernel(block); });
    });
  }
  // Taken over before it returns.
  void Copy(void* to, const void* from, size_t bytes) const {
    const auto* begin = static_cast<const std::byte*>(from);
    stream().Do([to, taken = std::vector<std::byte>(begin, begin + bytes)] {
      std::memcpy(to, taken.data(), taken.size());
    });
  }
  std::span<std::byte> workspace() const { return stream_.workspace; }

 private:
  EmulatedStream& stream() const {
    void* native = stream_.native;
    return *static_cast<EmulatedStream*>(native != nullptr ? native
                                                           : StreamInOrder(Order::kForward));
  }
  cuda::KernelStream stream_;
};

}  // namespace

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
    return t;
  }();
  return table;
}

}  // namespace choir::emulation
