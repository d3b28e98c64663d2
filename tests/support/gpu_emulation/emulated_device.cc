#include "tests/support/gpu_emulation/emulated_device.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"
#include "tests/support/gpu_emulation/emulated_stream.h"

namespace choir::emulation {

class Card {
 public:
  static constexpr uint64_t kMemory = uint64_t{64} << 30;
  struct Piece {
    void* begin;
    size_t bytes;
  };

  // Memory comes and goes by any thread, also while the card works for another.
  const char* Allocate(size_t bytes, void** memory) {
    const std::lock_guard lock(mu);
    if (used + bytes > total) return "out of memory";
    const size_t mapped = std::max<size_t>(bytes, 1);
    *memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHOIR_CHECK(*memory != MAP_FAILED);
    std::memset(*memory, 0xff, mapped);
    if (opened == 0) CHOIR_CHECK(mprotect(*memory, mapped, PROT_NONE) == 0);
    pieces.push_back({*memory, mapped});
    used += bytes;
    return nullptr;
  }
  void Free(void* memory) {
    const std::lock_guard lock(mu);
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

  std::recursive_mutex mu;  // held while streams work; guards what follows
  int opened = 0;           // how many streams at work have it open
  uint64_t total = kMemory, used = 0;
  std::atomic<int64_t> handles{0};  // streams and events
  std::atomic<const char*> error{nullptr};
  std::atomic<bool> hangs{false};
  int64_t waits = 0;
  std::atomic<int64_t> all_waits{0};
  std::atomic<const char*> graph_error{nullptr};
  std::vector<Piece> pieces;
};

namespace {

Card cards[kCards];
thread_local Card* current = nullptr;
thread_local const char* launch_error = nullptr;
std::atomic<bool> early_starts_allowed{true};
std::atomic<int> graphs_apart{0};
int64_t failing_wait = 0;
const char* failing_error = nullptr;
int64_t hanging_wait = 0;

struct Event {
  using Time = std::chrono::steady_clock::time_point;
  Card* card = nullptr;
  EmulatedStream* stream = nullptr;
  uint64_t at = 0;                                        // of the stream's work
  std::shared_ptr<Time> time = std::make_shared<Time>();  // when it was there
};

bool IsPast(EmulatedStream* stream, uint64_t at) {
  if (stream == nullptr) return true;  // never recorded
  if (stream->done < at) Progress(*stream, at);
  return stream->done >= at;
}

const char* Wait(void* native) {
  auto* stream = static_cast<EmulatedStream*>(native);
  if (stream->recording != nullptr) {
    stream->spoiled = true;
    return "operation not permitted when stream is capturing";
  }
  {
    const std::lock_guard lock(stream->card->mu);
    ++stream->card->all_waits;
    if (++stream->card->waits == failing_wait) stream->card->error = failing_error;
    if (stream->card->waits == hanging_wait) stream->card->hangs = true;
  }
  while (!stream->pending.empty()) {
    if (stream->card->error != nullptr) {
      stream->Drop();  // a card that failed does nothing any more
      return stream->card->error;
    }
    Progress(*stream);
    if (!stream->pending.empty()) std::this_thread::yield();
  }
  return stream->card->error;
}

const char* Poll() {
  const char* error = current->error;
  return error != nullptr ? error : launch_error;
}

const char* IsDone(void* handle, bool* done) {
  const auto* event = static_cast<Event*>(handle);
  if (event->card->error != nullptr) return event->card->error;
  *done = IsPast(event->stream, event->at);
  return nullptr;
}

const char* WaitEvent(void* native, void* handle) {
  const auto* event = static_cast<Event*>(handle);
  static_cast<EmulatedStream*>(native)->DoWhen(
      [from = event->stream, at = event->at] { return IsPast(from, at); }, [] {});
  return nullptr;
}

const char* MakeStream(void** stream) {
  *stream = new EmulatedStream{.card = current};
  ++current->handles;
  return nullptr;
}

void FreeStream(void* native) {
  auto* stream = static_cast<EmulatedStream*>(native);
  CHOIR_CHECK(stream->pending.empty() || stream->card->error != nullptr);  // memory is in use
  --stream->card->handles;
  delete stream;
}

const char* MakeEvent(void** event) {
  *event = new Event{.card = current};
  ++current->handles;
  return nullptr;
}

void FreeEvent(void* handle) {
  const auto* event = static_cast<Event*>(handle);
  --event->card->handles;
  delete event;
}

const char* BeginGraph(void* native) {
  if (!early_starts_allowed) ++graphs_apart;
  auto* stream = static_cast<EmulatedStream*>(native);
  CHOIR_CHECK(stream->recording == nullptr);
  stream->recording = std::make_unique<EmulatedGraph>();
  stream->spoiled = false;
  return nullptr;
}

const char* EndGraph(void* native, void** graph) {
  auto* stream = static_cast<EmulatedStream*>(native);
  CHOIR_CHECK(stream->recording != nullptr);
  std::unique_ptr<EmulatedGraph> made = std::move(stream->recording);
  *graph = nullptr;
  if (const char* error = stream->card->graph_error) return error;
  if (stream->spoiled) return "operation failed due to a previous error during capture";
  *graph = made.release();
  return nullptr;
}

const char* RunGraph(void* graph, void* native) {
  auto* stream = static_cast<EmulatedStream*>(native);
  for (const EmulatedWork& work : *static_cast<EmulatedGraph*>(graph)) {
    stream->DoWhen(work.ready, work.run);
  }
  return nullptr;
}

void FillGraphs(cuda::DeviceTable* t) {
  t->begin_graph = BeginGraph;
  t->end_graph = EndGraph;
  t->run_graph = RunGraph;
  t->free_graph = [](void* graph) { delete static_cast<EmulatedGraph*>(graph); };
}

void FillStreams(cuda::DeviceTable* t) {
  t->make_stream = MakeStream;
  t->free_stream = FreeStream;
  t->wait_stream = Wait;
  t->make_event = MakeEvent;
  t->free_event = FreeEvent;
  t->record = [](void* handle, void* stream) -> const char* {
    auto* event = static_cast<Event*>(handle);
    event->stream = static_cast<EmulatedStream*>(stream);
    event->stream->Do([time = event->time] { *time = std::chrono::steady_clock::now(); });
    event->at = event->stream->enqueued;
    return event->card->error;
  };
  t->elapsed = [](void* from, void* to, float* milliseconds) -> const char* {
    const auto spent = *static_cast<Event*>(to)->time - *static_cast<Event*>(from)->time;
    *milliseconds = std::chrono::duration<float, std::milli>(spent).count();
    return nullptr;
  };
  t->wait_event = WaitEvent;
  t->is_done = IsDone;
}

const char* Copy(void* to, const void* from, size_t bytes, void* native) {
  static_cast<EmulatedStream*>(native)->Do([=] {
    if (bytes > 0) std::memcpy(to, from, bytes);
  });
  return nullptr;
}

const char* Info(int32_t device, cuda::DeviceInfo* info) {
  std::snprintf(info->name, sizeof info->name, "an emulated card");
  std::snprintf(info->bus_id, sizeof info->bus_id, "emulated:%d", device);
  info->major = 9;
  info->processors = kEmulatedCard.multiprocessors;
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
    const std::lock_guard lock(current->mu);
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
  FillStreams(&t);
  FillGraphs(&t);
  t.poll = Poll;
  t.allow_early_starts = [](bool allow) { early_starts_allowed = allow; };
  t.forget = [] { launch_error = nullptr; };
  return t;
}

}  // namespace

void Progress(EmulatedStream& stream, uint64_t until) {
  Card& card = *stream.card;
  const std::lock_guard lock(card.mu);
  if (std::exchange(stream.running, true)) return;  // streams may wait for each other
  bool open = false;
  while (!stream.pending.empty() && stream.done < until && card.error == nullptr && !card.hangs) {
    EmulatedWork& next = stream.pending.front();
    if (next.ready && !next.ready()) break;
    if (!open && card.opened++ == 0) card.Protect(PROT_READ | PROT_WRITE);
    open = true;
    const std::function<void()> run = std::move(next.run);
    stream.pending.pop_front();
    run();
    ++stream.done;
  }
  if (open && --card.opened == 0) card.Protect(PROT_NONE);
  stream.running = false;
}

const cuda::DeviceTable& EmulatedDevices() {
  static const cuda::DeviceTable table = MakeTable();
  return table;
}

void SetCardMemory(int card, uint64_t bytes) {
  cards[card].total = bytes == 0 ? Card::kMemory : bytes;
}

int CurrentCard() { return current == nullptr ? -1 : static_cast<int>(current - cards); }

int64_t EmulatedHandles() {
  int64_t handles = 0;
  for (const Card& card : cards) handles += card.handles;
  return handles;
}

void FailCard(int card, const char* error) { cards[card].error = error; }

void HangCard(int card) { cards[card].hangs = true; }

void HangCardsAfter(int64_t waits) {
  for (Card& card : cards) card.waits = 0;
  hanging_wait = waits;
}

void LeaveLaunchError(const char* error) { launch_error = error; }

bool EarlyStartsAllowed() { return early_starts_allowed; }

int GraphsApart() { return graphs_apart; }

void FailGraphs(int card, const char* error) { cards[card].graph_error = error; }

int64_t WaitsOf(int card) { return cards[card].all_waits; }

void FailCardsAfter(int64_t waits, const char* error) {
  for (Card& card : cards) card.waits = 0;
  failing_error = error;
  failing_wait = waits;
}

}  // namespace choir::emulation
