#include "tests/support/gpu_emulation/emulated_async.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/check.h"
#include "common/tensor/small_floats.h"

namespace choir::emulation {

using cuda::kLineBytes;
using cuda::kWarpgroup;

void AsyncUnits::BeginBlock(std::span<std::byte> shared, int threads) {
  shared_ = shared;
  barriers_.clear();
  threads_.assign(static_cast<size_t>(threads), {});
}

void AsyncUnits::EndBlock() const {
  CHOIR_CHECK(copies_.empty());
  for (const auto& [at, barrier] : barriers_) CHOIR_CHECK(barrier.bytes == 0);
  for (const Thread& t : threads_) {
    CHOIR_CHECK(t.groups.size() == 1 && t.groups[0].empty() && t.copies.empty());
  }
}

void AsyncUnits::InitBarrier(const uint64_t* barrier, uint32_t arrivals) {
  const ptrdiff_t at = reinterpret_cast<const std::byte*>(barrier) - shared_.data();
  CHOIR_CHECK(at >= 0 && at % 8 == 0 && at + 8 <= std::ssize(shared_) && arrivals > 0);
  CHOIR_CHECK(barriers_.emplace(at, Barrier{.arrivals = arrivals, .pending = arrivals}).second);
}

AsyncUnits::Barrier& AsyncUnits::BarrierOf(const uint64_t* barrier) {
  const auto found = barriers_.find(reinterpret_cast<const std::byte*>(barrier) - shared_.data());
  CHOIR_CHECK(found != barriers_.end());
  return found->second;
}

void AsyncUnits::EndPhase(Barrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.arrivals;
  barrier.parity ^= 1;
  ++phases_ended_;
}

void AsyncUnits::ArriveAt(Barrier& barrier) {
  CHOIR_CHECK(barrier.pending > 0);
  --barrier.pending;
  EndPhase(barrier);
}

void AsyncUnits::Expect(const uint64_t* barrier, uint32_t bytes) {
  Barrier& b = BarrierOf(barrier);
  b.bytes += bytes;
  ArriveAt(b);
}

bool AsyncUnits::PhaseIsOver(const uint64_t* barrier, uint32_t parity) {
  CHOIR_CHECK(parity <= 1);
  return BarrierOf(barrier).parity != parity;
}

void AsyncUnits::LoadTile(const cuda::MapShape& map, const int32_t (&at)[2], std::byte* to,
                          const uint64_t* barrier) {
  const ptrdiff_t place = to - shared_.data();
  const auto bytes = static_cast<ptrdiff_t>(map.box_rows) * kLineBytes;
  CHOIR_CHECK(place >= 0 && place + bytes <= std::ssize(shared_));
  CHOIR_CHECK(place % cuda::kSwizzleRepeat == 0 && map.box_rows % 8 == 0);
  Barrier& b = BarrierOf(barrier);
  std::memset(to, 0xff, static_cast<size_t>(bytes));  // NaN: nobody may read it yet, or any more
  const int32_t column = at[0];
  const int32_t row = at[1];
  copies_.push_back(
      {-1, [this, map, column, row, place, bytes, &b] {
         const auto size = static_cast<int64_t>(SizeOf(map.dtype));
         for (int32_t r = 0; r < map.box_rows; ++r) {
           for (int64_t i = 0; i < kLineBytes; i += size) {
             const int64_t c = column + i / size;
             const bool inside = row + r >= 0 && row + r < map.rows && c >= 0 && c < map.width;
             const auto* from = static_cast<const std::byte*>(map.data) + (row + r) * map.pitch;
             const auto to_byte = Swizzled(static_cast<uint32_t>(place + r * kLineBytes + i));
             if (inside) {
               std::memcpy(&shared_[to_byte], from + c * size, static_cast<size_t>(size));
             } else {
               std::memset(&shared_[to_byte], 0, static_cast<size_t>(size));
             }
           }
         }
         b.bytes -= bytes;
         EndPhase(b);
       }});
}

void AsyncUnits::CopyAsync4(int thread, float* to, const float* from) {
  CHOIR_CHECK(reinterpret_cast<uintptr_t>(to) % 4 == 0 &&
              reinterpret_cast<uintptr_t>(from) % 4 == 0);
  std::memset(to, 0xff, 4);
  copies_.push_back({thread, [to, from] { std::memcpy(to, from, 4); }});
}

void AsyncUnits::CopyAsync16(int thread, void* to, const void* from) {
  std::memset(to, 0xff, 16);
  threads_[static_cast<size_t>(thread)].copies.push_back({to, from});
}

void AsyncUnits::ArriveAfterCopies(int thread, const uint64_t* barrier) {
  Barrier& b = BarrierOf(barrier);
  auto& own = threads_[static_cast<size_t>(thread)].copies;
  copies_.push_back({thread, [this, &b, all = std::exchange(own, {})] {
                       for (const Copy16& c : all) {
                         if (c.from == nullptr) std::memset(c.to, 0, 16);
                         if (c.from != nullptr) std::memcpy(c.to, c.from, 16);
                       }
                       ArriveAt(b);
                     }});
}

// A thread's own come in order: an arrival stands for those before it.
void AsyncUnits::LetOneCome(size_t i) {
  const int thread = copies_[i].thread;
  if (thread >= 0) {
    i = static_cast<size_t>(std::find_if(copies_.begin(), copies_.end(),
                                         [thread](const Copy& c) { return c.thread == thread; }) -
                            copies_.begin());
  }
  const Copy copy = std::move(copies_[i]);
  copies_.erase(copies_.begin() + static_cast<ptrdiff_t>(i));
  copy.come();
}

void AsyncUnits::LetCopiesCome() {
  const uint64_t before = phases_ended_;
  while (!copies_.empty() && phases_ended_ == before) {
    const size_t last = copies_.size() - 1;
    LetOneCome(order_ == Order::kForward    ? 0
               : order_ == Order::kBackward ? last
                                            : random_() % copies_.size());
  }
}

void AsyncUnits::PerhapsLetSomeCome() {
  if (order_ != Order::kShuffled || random_() % 2 != 0) return;
  const size_t most = random_() % 8 == 0 ? copies_.size() : 1;  // or all that are on their way
  for (size_t i = 0; i < most && !copies_.empty(); ++i) LetOneCome(random_() % copies_.size());
}

void AsyncUnits::Multiply(int thread, const Product& product) {
  Thread& t = threads_[static_cast<size_t>(thread)];
  CHOIR_CHECK(t.fenced);
  t.groups.back().push_back(product);
}

void AsyncUnits::Commit(int thread) {
  Thread& t = threads_[static_cast<size_t>(thread)];
  t.groups.emplace_back();
}

void AsyncUnits::BeginWait(int thread, int left) {
  Thread& t = threads_[static_cast<size_t>(thread)];
  CHOIR_CHECK(t.groups.back().empty());  // or they are forgotten
  t.left = left;
  t.fenced = false;
}

void AsyncUnits::EndWait(int first_thread) {
  const std::span<Thread> group(&threads_[static_cast<size_t>(first_thread)], kWarpgroup);
  const size_t committed = group[0].groups.size() - 1;
  const auto left = static_cast<size_t>(group[0].left);
  const size_t done = committed > left ? committed - left : 0;
  for (const Thread& t : group) {
    CHOIR_CHECK(t.groups.size() == committed + 1 && t.left == group[0].left);
  }
  for (size_t g = 0; g < done; ++g) {
    for (size_t p = 0; p < group[0].groups[g].size(); ++p) Run(group, g, p);
  }
  for (Thread& t : group) {
    t.groups.erase(t.groups.begin(), t.groups.begin() + static_cast<ptrdiff_t>(done));
  }
}

// [lines, 32 bytes of K] of an operand as it lies now.
std::vector<float> AsyncUnits::OperandOf(uint64_t descriptor, int lines, bool f8) const {
  CHOIR_CHECK(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0);  // 128-byte swizzle, whole
  const auto begin = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  const auto between = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  CHOIR_CHECK(begin % kLineBytes % 32 == 0 && begin % cuda::kSwizzleRepeat < kLineBytes);
  const int columns = f8 ? 32 : 16;
  std::vector<float> out(static_cast<size_t>(lines * columns));
  for (int line = 0; line < lines; ++line) {
    const auto at = begin + static_cast<uint32_t>(line / 8) * between +
                    static_cast<uint32_t>(line % 8 * kLineBytes);
    for (int k = 0; k < columns; ++k) {
      const uint32_t byte = Swizzled(at + static_cast<uint32_t>(f8 ? k : 2 * k));
      CHOIR_CHECK(byte + 2 <= shared_.size());
      bf16 value = 0;
      std::memcpy(&value, &shared_[byte], 2);
      out[static_cast<size_t>(line * columns + k)] =
          f8 ? F8ToF32(static_cast<uint8_t>(shared_[byte])) : ToF32(value);
    }
  }
  return out;
}

// [16 lines of K, columns] of an operand with K across its lines (AcrossAt).
std::vector<float> AsyncUnits::AcrossOf(uint64_t descriptor, int columns) const {
  CHOIR_CHECK(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0);
  const auto begin = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  const auto panel = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  const auto between = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  CHOIR_CHECK(begin % cuda::kSwizzleRepeat == 0 && panel % cuda::kSwizzleRepeat == 0);
  std::vector<float> out(static_cast<size_t>(16 * columns));
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < columns; ++n) {
      const auto at = begin + static_cast<uint32_t>(n / 64) * panel +
                      static_cast<uint32_t>(k / 8) * between +
                      static_cast<uint32_t>(k % 8 * kLineBytes + n % 64 * 2);
      CHOIR_CHECK(at + 2 <= shared_.size());
      bf16 value = 0;
      std::memcpy(&value, &shared_[Swizzled(at)], 2);
      out[static_cast<size_t>(k * columns + n)] = ToF32(value);
    }
  }
  return out;
}

namespace {

// A fragment of 64 x 16 in bf16 (PTX ISA, "Register Fragments for wgmma.m64k16").
std::vector<float> FragmentOf(const std::function<const uint32_t*(int thread)>& registers) {
  std::vector<float> out(64 * 16);
  for (int line = 0; line < 64; ++line) {
    for (int k = 0; k < 16; ++k) {
      const uint32_t* of = registers(line / 16 * 32 + line % 8 * 4 + k % 8 / 2);
      const uint32_t pair = of[(line % 16 >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)];
      out[static_cast<size_t>(line * 16 + k)] = ToF32(static_cast<bf16>(pair >> (k % 2 * 16)));
    }
  }
  return out;
}

std::vector<float> Transposed(const std::vector<float>& from, int lines) {
  const auto rows = static_cast<size_t>(lines);
  const size_t columns = from.size() / rows;
  std::vector<float> to(from.size());
  for (size_t n = 0; n < rows; ++n) {
    for (size_t k = 0; k < columns; ++k) to[k * rows + n] = from[n * columns + k];
  }
  return to;
}

// sums[0..rows) += a[0..columns) · b, b with K outside: for compilers that see vectors then.
void AddLine(const float* a, const float* b, int columns, int rows, float* sums) {
  for (int k = 0; k < columns; ++k) {
    const float factor = a[k];
    const float* line = b + k * rows;
    for (int n = 0; n < rows; ++n) sums[n] += factor * line[n];
  }
}

}  // namespace

// The layout is the PTX ISA's; sums are in FP32 here, one after the other, which is not how tensor
// cores round.
void AsyncUnits::Run(std::span<Thread> group, size_t g, size_t p) {
  const Product& first = group[0].groups[g][p];
  for (const Thread& t : group) {
    CHOIR_CHECK(t.groups[g].size() == group[0].groups[g].size() && first.SameAs(t.groups[g][p]));
  }
  const int columns = first.f8 ? 32 : 16;
  const std::vector<float> a =
      first.a_pair == nullptr
          ? OperandOf(first.a, 64, first.f8)
          : FragmentOf([&](int i) { return group[static_cast<size_t>(i)].groups[g][p].a_pair; });
  const std::vector<float> b =
      first.across ? AcrossOf(first.b, first.rows)
                   : Transposed(OperandOf(first.b, first.rows, first.f8), first.rows);
  std::vector<float> sums(static_cast<size_t>(first.rows));
  for (int line = 0; line < 64; ++line) {
    const auto at = [&](int n) -> float& {
      const int thread = line / 16 * 32 + line % 8 * 4 + n % 8 / 2;
      float* of = group[static_cast<size_t>(thread)].groups[g][p].sums;
      return of[n / 8 * 4 + (line % 16 >= 8 ? 2 : 0) + n % 2];
    };
    for (int n = 0; n < first.rows; ++n) {
      sums[static_cast<size_t>(n)] = first.add ? at(n) : 0.0f;
    }
    AddLine(&a[static_cast<size_t>(line * columns)], b.data(), columns, first.rows, sums.data());
    for (int n = 0; n < first.rows; ++n) at(n) = sums[static_cast<size_t>(n)];
  }
}

}  // namespace choir::emulation
