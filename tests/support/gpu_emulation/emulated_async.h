// What a block of Hopper does besides its threads (kernels/cuda/hopper/operands.cuh): barriers that
// count arrivals and bytes, copies that come late, products that read their operands late.
//
// Found and reported as a failed CHECK: places that are not aligned, boxes that the copy engine
// does not take, barriers that were not made or get more arrivals than they expect, bytes that
// nobody expects or that never come, products without a fence before or a wait after, descriptors
// that differ within a warpgroup. A missing wait shows in values: what is to be copied is NaN until
// it is there, sums change and operands are read only when somebody waits for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "kernels/cuda/hopper/operands.cuh"

namespace choir::emulation {

// In which order threads take turns, and warps between barriers: all by a step each; the last one
// first, up to the barrier; each up to the barrier, in another order for every block. Copies come
// as late as can be, in the order of their issue or in the reverse one, or at any time in any
// order.
enum class Order : uint8_t { kForward, kBackward, kShuffled };

// One product of a warpgroup as each of its threads asked for it.
struct Product {
  bool f8 = false;
  int rows = 0;  // columns of the result
  float* sums = nullptr;
  uint64_t a = 0, b = 0;             // descriptors
  const uint32_t* a_pair = nullptr;  // or the registers of a
  bool add = false;
  bool across = false;  // b has K across its lines

  bool SameAs(const Product& o) const {
    return f8 == o.f8 && rows == o.rows && a == o.a && b == o.b && add == o.add &&
           across == o.across && (a_pair == nullptr) == (o.a_pair == nullptr);
  }
};

class AsyncUnits {
 public:
  explicit AsyncUnits(Order order) : order_(order) {}

  void BeginBlock(std::span<std::byte> shared, int threads);
  void EndBlock() const;  // nothing is on its way

  void InitBarrier(const uint64_t* barrier, uint32_t arrivals);
  void Arrive(const uint64_t* barrier) { ArriveAt(BarrierOf(barrier)); }
  void Expect(const uint64_t* barrier, uint32_t bytes);
  bool PhaseIsOver(const uint64_t* barrier, uint32_t parity);

  void LoadTile(const cuda::MapShape& map, const int32_t (&at)[2], std::byte* to,
                const uint64_t* barrier);
  void CopyAsync4(int thread, float* to, const float* from);
  // 16 bytes, zeros where `from` is null.
  void CopyAsync16(int thread, void* to, const void* from);
  void ArriveAfterCopies(int thread, const uint64_t* barrier);
  bool HasBarriers() const { return !barriers_.empty(); }
  bool HasCopies() const { return !copies_.empty(); }
  void LetCopiesCome();  // until a phase ends, or none is left
  void PerhapsLetSomeCome();

  void Fence(int thread) { threads_[static_cast<size_t>(thread)].fenced = true; }
  void Multiply(int thread, const Product& product);
  void Commit(int thread);
  void BeginWait(int thread, int left);
  // All threads of the warpgroup from `first_thread` on wait.
  void EndWait(int first_thread);

 private:
  struct Barrier {
    uint32_t arrivals = 0, pending = 0, parity = 0;
    int64_t bytes = 0;
  };
  struct Copy {
    int thread;  // -1: a tile
    std::function<void()> come;
  };
  struct Copy16 {
    void* to;
    const void* from;
  };
  struct Thread {
    bool fenced = false;
    std::vector<std::vector<Product>> groups{1};  // the last one is not committed yet
    int left = 0;
    std::vector<Copy16> copies;  // that no arrival follows yet
  };

  Barrier& BarrierOf(const uint64_t* barrier);
  void ArriveAt(Barrier& barrier);
  void EndPhase(Barrier& barrier);
  void LetOneCome(size_t i);
  uint32_t Swizzled(uint32_t address) const { return address ^ ((address >> 7 & 7) << 4); }
  std::vector<float> OperandOf(uint64_t descriptor, int lines, bool f8) const;
  std::vector<float> AcrossOf(uint64_t descriptor, int columns) const;
  void Run(std::span<Thread> group, size_t g, size_t p);

  const Order order_;
  std::mt19937 random_{2};
  std::span<std::byte> shared_;
  std::map<ptrdiff_t, Barrier> barriers_;
  std::vector<Copy> copies_;
  std::vector<Thread> threads_;
  uint64_t phases_ended_ = 0;
};

}  // namespace choir::emulation
