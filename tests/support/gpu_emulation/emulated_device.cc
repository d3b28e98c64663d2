#include "tests/support/gpu_emulation/emulated_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/base/check.h"
#include "tests/support/gpu_emulation/emulated_stream.h"

namespace choir::emulation {

class Card {
 public:
  static constexpr uint64_t kMemory = uint64_t{64} << 30;
  struct Piece {
    void* begin;
    size_t bytes;
  };

  const char* Allocate(size_t bytes, void** memory) {
    if (used + bytes > total) return "out of memory";
    const size_t mapped = std::max<size_t>(bytes, 1);
    *memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHOIR_CHECK(*memory != MAP_FAILED);
    std::memset(*memory, 0xff, mapped);
    CHOIR_CHECK(mprotect(*memory, mapped, PROT_NONE) == 0);
    pieces.push_back({*memory, mapped});
    used += bytes;
    return nullptr;
  }
  void Free(void* memory) {
    const auto piece = std::find_if(pieces.begin(), pieces.end(),
                                    [memory](const Piece& p) { return p.begin == memory; });
    CHOIR_CHECK(piece != pieces.end());
    CHOIR_CHECK(munmap(piece->begin, piece->bytes) == 0);
    used -= std::min<uint64_t>(used, piece->bytes);
    pieces.erase(piece);
  }
  void Protect(int access) {
    for (const Piece& p : pieces) CHOIR_CHECK(mprotect(p.begin, p.bytes, access) == 0);
  }

  uint64_t total = kMemory, used = 0;
  std::atomic<const char*> error{nullptr};
  int64_t waits = 0;
  std::vector<Piece> pieces;
};

namespace {

Card cards[kCards];
thread_local Card* current = nullptr;
int64_t failing_wait = 0;
const char* failing_error = nullptr;

const char* Wait(void* native) {
  auto* stream = static_cast<EmulatedStream*>(native);
  if (++stream->card->waits == failing_wait) stream->card->error = failing_error;
  if (stream->card->error != nullptr) return stream->card->error;
  stream->card->Protect(PROT_READ | PROT_WRITE);
  for (const auto& work : stream->pending) work();
  stream->pending.clear();
  stream->card->Protect(PROT_NONE);
  return nullptr;
}

const char* Copy(void* to, const void* from, size_t bytes, void* native) {
  static_cast<EmulatedStream*>(native)->Do([=] {
    if (bytes > 0) std::memcpy(to, from, bytes);
  });
  return nullptr;
}

const char* Info(int32_t, cuda::DeviceInfo* info) {
  std::snprintf(info->name, sizeof info->name, "an emulated card");
  info->major = 9;
  info->memory_bytes = Card::kMemory;
  return nullptr;
}

cuda::DeviceTable MakeTable() {
  cuda::DeviceTable t;
  t.probe = [](int32_t* num_devices, char*, size_t) {
    *num_devices = kCards;
    return cuda::Probe::kReady;
  };
  t.info = Info;
  t.use = [](int32_t device) -> const char* {
    if (device < 0 || device >= kCards) return "invalid device";
    current = &cards[device];
    return nullptr;
  };
  t.memory = [](uint64_t* free_bytes, uint64_t* total_bytes) -> const char* {
    *free_bytes = current->total - current->used;
    *total_bytes = current->total;
    return nullptr;
  };
  t.allocate = [](size_t bytes, void** memory) { return current->Allocate(bytes, memory); };
  t.free = [](void* memory) { current->Free(memory); };
  t.allocate_pinned = [](size_t bytes, void** memory) -> const char* {
    *memory = std::aligned_alloc(64, (bytes + 64) / 64 * 64);
    return *memory == nullptr ? "out of memory" : nullptr;
  };
  t.free_pinned = [](void* memory) { std::free(memory); };
  t.copy = Copy;
  t.make_stream = [](void** stream) -> const char* {
    *stream = new EmulatedStream{.order = Order::kForward, .card = current, .pending = {}};
    return nullptr;
  };
  t.free_stream = [](void* stream) { delete static_cast<EmulatedStream*>(stream); };
  t.wait_stream = Wait;
  t.poll = [] { return current->error.load(); };
  return t;
}

}  // namespace

const cuda::DeviceTable& EmulatedDevices() {
  static const cuda::DeviceTable table = MakeTable();
  return table;
}

void SetCardMemory(int card, uint64_t bytes) {
  cards[card].total = bytes == 0 ? Card::kMemory : bytes;
}

void FailCard(int card, const char* error) { cards[card].error = error; }

void FailCardsAfter(int64_t waits, const char* error) {
  for (Card& card : cards) card.waits = 0;
  failing_error = error;
  failing_wait = waits;
}

}  // namespace choir::emulation
