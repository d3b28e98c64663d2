#include "tests/support/gpu_emulation/emulated_block.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/tensor/dtype.h"

namespace choir::emulation {

int EmulatedBlock::threads() const { return scheduler_->grid_.threads; }
int64_t EmulatedBlock::x() const { return scheduler_->x_; }
int64_t EmulatedBlock::y() const { return scheduler_->y_; }
std::byte* EmulatedBlock::shared() const { return scheduler_->shared_.data(); }

void EmulatedBlock::Sync() { scheduler_->Wait(thread_, BlockScheduler::State::kAtBlock); }

uint64_t EmulatedBlock::Exchange(uint64_t bits, int from_lane) {
  const auto lanes = scheduler_->lanes_.begin() + warp() * cuda::kWarp;
  lanes[lane()] = bits;
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);  // all have offered
  const uint64_t other = lanes[from_lane];
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);  // all have taken
  return other;
}

uint32_t EmulatedBlock::Ballot(bool flag) {
  const auto lanes = scheduler_->lanes_.begin() + warp() * cuda::kWarp;
  lanes[lane()] = flag ? 1 : 0;
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);
  uint32_t flags = 0;
  for (int i = 0; i < cuda::kWarp; ++i) flags |= static_cast<uint32_t>(lanes[i]) << i;
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);
  return flags;
}

// The layout of fragments as the PTX ISA has it for mma.m16n8k16 (bf16). Sums here are in double
// and rounded once; tensor cores round on their own way, so only the layout is proven.
void EmulatedBlock::Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const auto warp_of = scheduler_->fragments_.begin() + warp() * cuda::kWarp;
  std::copy_n(a, 4, warp_of[lane()].a);
  std::copy_n(b, 2, warp_of[lane()].b);
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);
  const auto half = [](uint32_t pair, int i) {
    return ToF32(static_cast<bf16>(pair >> (i % 2 * 16)));
  };
  // Row r of a: thread r % 8 * 4 + k % 8 / 2, register (r >= 8) + 2 · (k >= 8); column c of b
  // likewise.
  const auto a_at = [&](int r, int k) {
    return half(warp_of[r % 8 * 4 + k % 8 / 2].a[(r >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)], k);
  };
  const auto b_at = [&](int k, int c) {
    return half(warp_of[c * 4 + k % 8 / 2].b[k >= 8 ? 1 : 0], k);
  };
  for (int i = 0; i < 4; ++i) {
    const int r = lane() / 4 + (i >= 2 ? 8 : 0);
    const int c = lane() % 4 * 2 + i % 2;
    double sum = static_cast<double>(d[i]);
    for (int k = 0; k < 16; ++k) {
      sum += static_cast<double>(a_at(r, k)) * static_cast<double>(b_at(k, c));
    }
    d[i] = static_cast<float>(sum);
  }
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);
}

void BlockScheduler::Run(const cuda::Grid& grid, const Body& body) {
  CHOIR_CHECK(grid.threads > 0 && grid.threads <= 1024 && grid.threads % cuda::kWarp == 0);
  CHOIR_CHECK(grid.x < (int64_t{1} << 31) && grid.y <= 65535);
  constexpr int64_t kSharedMax = 99 * 1024;  // what every architecture from 80 on gives
  CHOIR_CHECK(grid.shared_bytes >= 0 && grid.shared_bytes <= kSharedMax);
  grid_ = grid;
  lanes_.assign(static_cast<size_t>(grid.threads), 0);
  fragments_.resize(static_cast<size_t>(grid.threads));
  threads_.resize(static_cast<size_t>(grid.threads));
  for (y_ = 0; y_ < grid.y; ++y_) {
    for (x_ = 0; x_ < grid.x; ++x_) {
      // Left-overs of an earlier block are garbage to a kernel: here they are NaN.
      shared_.assign(static_cast<size_t>(grid.shared_bytes), std::byte{0xff});
      RunBlock(body);
    }
  }
}

void BlockScheduler::Start(const Body& body, int thread) {
  Thread& t = threads_[static_cast<size_t>(thread)];
  t.state = State::kReady;
  t.fiber = boost::context::fiber(std::allocator_arg, stacks_,
                                  [this, &body, thread](boost::context::fiber&& main) {
                                    main_ = std::move(main);
                                    EmulatedBlock block(this, thread);
                                    body(block);
                                    threads_[static_cast<size_t>(thread)].state = State::kDone;
                                    return std::move(main_);
                                  });
}

std::vector<int> BlockScheduler::ThreadOrder() {
  std::vector<int> order(threads_.size());
  std::iota(order.begin(), order.end(), 0);
  if (order_ == Order::kBackward) std::reverse(order.begin(), order.end());
  if (order_ == Order::kShuffled) std::shuffle(order.begin(), order.end(), random_);
  return order;
}

void BlockScheduler::RunBlock(const Body& body) {
  const std::vector<int> order = ThreadOrder();
  for (const int i : order) Start(body, i);
  do {
    for (const int i : order) {
      Thread& t = threads_[static_cast<size_t>(i)];
      while (t.state == State::kReady) t.fiber = std::move(t.fiber).resume();
    }
  } while (ReleaseWaiting());
  for (const Thread& t : threads_) CHOIR_CHECK(t.state == State::kDone);  // or it waits for ever
}

// Lets those go on whose whole warp, or whole block, has arrived. False when nobody can.
bool BlockScheduler::ReleaseWaiting() {
  bool released = false;
  for (size_t w = 0; w < threads_.size(); w += cuda::kWarp) {
    const auto warp = threads_.begin() + static_cast<int64_t>(w);
    const auto at_warp = [](const Thread& t) { return t.state == State::kAtWarp; };
    if (!std::all_of(warp, warp + cuda::kWarp, at_warp)) continue;
    for (auto t = warp; t != warp + cuda::kWarp; ++t) t->state = State::kReady;
    released = true;
  }
  if (released) return true;
  const auto at_block = [](const Thread& t) { return t.state == State::kAtBlock; };
  if (!std::all_of(threads_.begin(), threads_.end(), at_block)) return false;
  for (Thread& t : threads_) t.state = State::kReady;
  return true;
}

void BlockScheduler::Wait(int thread, State state) {
  threads_[static_cast<size_t>(thread)].state = state;
  main_ = std::move(main_).resume();
}

}  // namespace choir::emulation
