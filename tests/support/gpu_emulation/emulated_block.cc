#include "tests/support/gpu_emulation/emulated_block.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "common/tensor/dtype.h"

namespace choir::emulation {

int EmulatedBlock::threads() const { return scheduler_->grid_.threads; }
int64_t EmulatedBlock::x() const { return scheduler_->x_; }
int64_t EmulatedBlock::y() const { return scheduler_->y_; }
std::byte* EmulatedBlock::shared() const { return scheduler_->shared_.data(); }

void EmulatedBlock::AwaitEarlier() {
  bool& awaited = scheduler_->threads_[static_cast<size_t>(thread_)].awaited;
  CHOIR_CHECK(!awaited);
  awaited = true;
}

void EmulatedBlock::CheckAwaited() const {
  const bool awaited = scheduler_->threads_[static_cast<size_t>(thread_)].awaited;
  CHOIR_CHECK(awaited || !scheduler_->is_kernel_);
}

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

void EmulatedBlock::CheckShared(const void* at, size_t bytes) const {
  const auto* byte = static_cast<const std::byte*>(at);
  const std::span<std::byte> memory = scheduler_->shared_;
  CHOIR_CHECK(byte >= memory.data() && byte + bytes <= memory.data() + memory.size());
  CHOIR_CHECK(reinterpret_cast<uintptr_t>(at) % bytes == 0);
}

// Layout as the PTX ISA has it for ldmatrix.m8n8.x4.b16: of matrix i a lane gets elements 2t and
// 2t + 1 (t = lane % 4) of row lane / 4; transposed: of column lane / 4.
void EmulatedBlock::Load(uint32_t (&to)[4], const void* row, bool transposed) {
  CheckShared(row);
  const auto rows = scheduler_->lanes_.begin() + warp() * cuda::kWarp;
  rows[lane()] = reinterpret_cast<uintptr_t>(row);
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);
  const auto at = [&](int matrix, int r, int c) {
    return static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(rows[matrix * 8 + r])[c]);
  };
  const int line = lane() / 4;
  const int first = lane() % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    to[i] = transposed ? at(i, first, line) | at(i, first + 1, line) << 16
                       : at(i, line, first) | at(i, line, first + 1) << 16;
  }
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarp);
}

void EmulatedBlock::CopyAsync(void* to, const void* from, bool there) {
  CheckAwaited();
  CheckShared(to);
  CHOIR_CHECK(reinterpret_cast<uintptr_t>(from) % 16 == 0);
  if (async().HasBarriers()) return async().CopyAsync16(thread_, to, there ? from : nullptr);
  std::memset(to, 0xff, 16);
  scheduler_->threads_[static_cast<size_t>(thread_)].copies.back().push_back(
      {to, there ? from : nullptr});
}

void EmulatedBlock::CommitCopies() {
  scheduler_->threads_[static_cast<size_t>(thread_)].copies.emplace_back();
}

void EmulatedBlock::FinishCopies(size_t groups_left) {
  auto& copies = scheduler_->threads_[static_cast<size_t>(thread_)].copies;
  while (copies.size() > groups_left + 1) {
    for (const auto& [to, from] : copies.front()) {
      if (from == nullptr) std::memset(to, 0, 16);
      if (from != nullptr) std::memcpy(to, from, 16);
    }
    copies.erase(copies.begin());
  }
}

AsyncUnits& EmulatedBlock::async() const { return scheduler_->async_; }

uint32_t EmulatedBlock::SharedAddress(const void* p) const {
  return static_cast<uint32_t>(static_cast<const std::byte*>(p) - shared());
}

void EmulatedBlock::InitBarrier(uint64_t* barrier, uint32_t arrivals) {
  async().InitBarrier(barrier, arrivals);
}
void EmulatedBlock::Arrive(uint64_t* barrier) { async().Arrive(barrier); }
void EmulatedBlock::ArriveExpecting(uint64_t* barrier, uint32_t bytes) {
  async().Expect(barrier, bytes);
}

void EmulatedBlock::AwaitPhase(uint64_t* barrier, uint32_t parity) {
  auto& self = scheduler_->threads_[static_cast<size_t>(thread_)];
  self.barrier = barrier;
  self.parity = parity;
  if (!async().PhaseIsOver(barrier, parity)) {
    scheduler_->Wait(thread_, BlockScheduler::State::kAtPhase);
  }
}

void EmulatedBlock::LoadTile(const cuda::TensorMap& map, const int32_t (&at)[2], std::byte* to,
                             uint64_t* barrier) {
  cuda::MapShape shape;
  std::memcpy(static_cast<void*>(&shape), &map, sizeof shape);
  if (!shape.lasting) CheckAwaited();
  async().LoadTile(shape, at, to, barrier);
}
void EmulatedBlock::CopyAsync4(float* to, const float* from) {
  CheckAwaited();
  async().CopyAsync4(thread_, to, from);
}
void EmulatedBlock::ArriveAfterCopies(uint64_t* barrier) {
  async().ArriveAfterCopies(thread_, barrier);
}

void EmulatedBlock::WgmmaFence() { async().Fence(thread_); }
void EmulatedBlock::WgmmaCommit() { async().Commit(thread_); }
void EmulatedBlock::Multiply(const Product& product) { async().Multiply(thread_, product); }
void EmulatedBlock::WaitForProducts(int left) {
  async().BeginWait(thread_, left);
  scheduler_->Wait(thread_, BlockScheduler::State::kAtWarpgroup);
}

uint32_t EmulatedBlock::RoundPair(float low, float high) const {
  return static_cast<uint32_t>(ToBF16(low)) | static_cast<uint32_t>(ToBF16(high)) << 16;
}
uint32_t EmulatedBlock::SelectBytes(uint32_t bytes, uint32_t selector) const {
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t from = selector >> (4 * i) & 7;
    out |= (from < 4 ? bytes >> (8 * from) & 0xff : 0) << (8 * i);
  }
  return out;
}
uint32_t EmulatedBlock::ScaleUpPair(uint32_t pair) const {
  const auto up = [](uint32_t half) {
    return std::ldexp(ToF32(static_cast<bf16>(half & 0xffff)), 120);
  };
  return RoundPair(up(pair), up(pair >> 16));
}
float EmulatedBlock::QuickExp2(float x) const { return std::exp2(x); }
float EmulatedBlock::QuickSigmoid(float x) const { return 1.0f / (1.0f + std::exp(-x)); }

void BlockScheduler::Run(const cuda::Grid& grid, const Body& body) {
  CHOIR_CHECK(grid.threads > 0 && grid.threads <= 1024 && grid.threads % cuda::kWarp == 0);
  CHOIR_CHECK(grid.x < (int64_t{1} << 31) && grid.y <= 65535);
  constexpr int64_t kSharedMax = 227 * 1024;  // what the largest cards give
  CHOIR_CHECK(grid.shared_bytes >= 0 && grid.shared_bytes <= kSharedMax);
  grid_ = grid;
  const auto threads = static_cast<size_t>(grid.threads);
  lanes_.assign(threads, 0);
  fragments_.resize(threads);
  threads_.resize(threads);
  constexpr size_t kAlign = cuda::kSwizzleRepeat;
  const auto bytes = static_cast<size_t>(grid.shared_bytes);
  memory_.resize(bytes + kAlign);
  const size_t skip = kAlign - reinterpret_cast<uintptr_t>(memory_.data()) % kAlign;
  shared_ = std::span(memory_).subspan(skip, bytes);
  for (y_ = 0; y_ < grid.y; ++y_) {
    for (x_ = 0; x_ < grid.x; ++x_) {
      // Left-overs of an earlier block are garbage to a kernel: here they are NaN.
      std::fill(shared_.begin(), shared_.end(), std::byte{0xff});
      async_.BeginBlock(shared_, grid.threads);
      RunBlock(body);
      async_.EndBlock();
    }
  }
}

void BlockScheduler::Start(const Body& body, int thread) {
  Thread& t = threads_[static_cast<size_t>(thread)];
  t.state = State::kReady;
  t.awaited = false;
  t.copies.assign(1, {});
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
  warp_order_.resize(threads_.size() / cuda::kWarp);
  std::iota(warp_order_.rbegin(), warp_order_.rend(), size_t{0});
  const std::vector<int> order = ThreadOrder();
  if (order_ == Order::kShuffled) std::shuffle(warp_order_.begin(), warp_order_.end(), random_);
  std::vector<int> by_warp;
  for (const size_t warp : warp_order_) {
    std::copy_if(order.begin(), order.end(), std::back_inserter(by_warp),
                 [warp](int i) { return static_cast<size_t>(i / cuda::kWarp) == warp; });
  }
  late_ = static_cast<int>(random_() % 32);
  for (const int i : order) Start(body, i);
  do {
    KeepsStep() ? Resume(order) : ResumeWarps(by_warp);
  } while (ReleaseWaiting());
  for (const Thread& t : threads_) CHOIR_CHECK(t.state == State::kDone);  // or it waits for ever
}

void BlockScheduler::Resume(std::span<const int> order) {
  for (const int i : order) {
    Thread& t = threads_[static_cast<size_t>(i)];
    if (IsLate(i)) continue;
    while (t.state == State::kReady) t.fiber = std::move(t.fiber).resume();
  }
}

// One warp up to the barrier before others begin: so it reads what they have not written yet.
void BlockScheduler::ResumeWarps(std::span<const int> by_warp) {
  for (; !by_warp.empty(); by_warp = by_warp.subspan(cuda::kWarp)) {
    do {
      Resume(by_warp.first(cuda::kWarp));
    } while (ReleaseWarp(static_cast<size_t>(by_warp.front() / cuda::kWarp)));
  }
}

// Lets those go on whose whole warp, warpgroup or block has arrived, or whose phase is over. False
// when nobody can.
bool BlockScheduler::ReleaseWaiting() {
  async_.PerhapsLetSomeCome();
  const auto ready = [](const Thread& t) { return t.state == State::kReady; };
  bool released = std::any_of(threads_.begin(), threads_.end(), ready);
  released |= ReleaseWarps();
  released |= ReleaseWarpgroups();
  released |= ReleasePhases();
  if (released) return true;
  if (async_.HasCopies()) {  // as late as can be
    async_.LetCopiesCome();
    return true;
  }
  const auto at_block = [](const Thread& t) { return t.state == State::kAtBlock; };
  if (!std::all_of(threads_.begin(), threads_.end(), at_block)) return false;
  for (Thread& t : threads_) t.state = State::kReady;
  return true;
}

bool BlockScheduler::ReleaseWarp(size_t warp) {
  const auto begin = threads_.begin() + static_cast<int64_t>(warp) * cuda::kWarp;
  const auto end = begin + cuda::kWarp;
  const auto at_warp = [](const Thread& t) { return t.state == State::kAtWarp; };
  if (!std::all_of(begin, end, at_warp)) return false;
  for (auto t = begin; t != end; ++t) t->state = State::kReady;
  return true;
}

bool BlockScheduler::ReleaseWarps() {
  bool released = false;
  for (size_t w = 0; w < threads_.size() / cuda::kWarp; ++w) released |= ReleaseWarp(w);
  return released;
}

// Shuffled: some threads of a block are late when they could go on, and others go far ahead.
bool BlockScheduler::IsLate(int thread) {
  if (order_ != Order::kShuffled || !async_.HasBarriers()) return false;
  return (thread * 7 + late_) % 32 < 2 && random_() % 16 != 0;
}

bool BlockScheduler::ReleaseWarpgroups() {
  bool released = false;
  const auto all = static_cast<int>(threads_.size());
  for (int first = 0; first + cuda::kWarpgroup <= all; first += cuda::kWarpgroup) {
    const std::span group(&threads_[static_cast<size_t>(first)], cuda::kWarpgroup);
    const auto waits = [](const Thread& t) { return t.state == State::kAtWarpgroup; };
    if (!std::all_of(group.begin(), group.end(), waits)) continue;
    async_.EndWait(first);
    for (Thread& t : group) t.state = State::kReady;
    released = true;
  }
  return released;
}

bool BlockScheduler::ReleasePhases() {
  bool released = false;
  for (Thread& t : threads_) {
    if (t.state != State::kAtPhase || !async_.PhaseIsOver(t.barrier, t.parity)) continue;
    t.state = State::kReady;
    released = true;
  }
  return released;
}

void BlockScheduler::Wait(int thread, State state) {
  threads_[static_cast<size_t>(thread)].state = state;
  main_ = std::move(main_).resume();
}

}  // namespace choir::emulation
