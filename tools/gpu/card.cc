#include "tools/gpu/card.h"

#include <algorithm>
#include <cstring>

#include "common/tensor/small_floats.h"
#include "tools/gpu/must.h"

namespace choir::gpu {
namespace {

// One element of a pool. `u` is uniform in [0, 2^32).
void Put(DType dtype, Contents c, uint32_t u, std::byte* to) {
  const double uniform = static_cast<double>(u) / 4294967296.0 * 2 - 1;
  const auto value = static_cast<float>(c.base + c.range * uniform);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, &value, sizeof value);
      return;
    case DType::kBF16: {
      const bf16 half = ToBF16(value);
      std::memcpy(to, &half, sizeof half);
      return;
    }
    case DType::kF16: {
      const uint16_t half = ToF16(value);
      std::memcpy(to, &half, sizeof half);
      return;
    }
    case DType::kF8E4M3:  // all codes but the two that are NaN
      *to = static_cast<std::byte>((u >> 8) % 127 | (u & 1) << 7);
      return;
    case DType::kF4E2M1:
      *to = static_cast<std::byte>(u >> 8);
      return;
    case DType::kU8:  // 2^-4 .. 2^-1
      *to = static_cast<std::byte>(123 + (u >> 8) % 4);
      return;
    case DType::kI32:
    case DType::kI64:
      std::memset(to, 0, SizeOf(dtype));
      return;
  }
}

}  // namespace

Card::Card(const cuda::DeviceTable& device, const CardOptions& options)
    : device_(device), options_(options), random_(options.seed) {
  Must(device.make_stream(&stream_), "stream");
  Must(device.make_event(&begin_), "event");
  Must(device.make_event(&end_), "event");
  Must(device.allocate(options.workspace_bytes, &workspace_), "device memory");
  Must(device.allocate(2 * options.flush_bytes, &flush_), "device memory");
}

Card::~Card() {
  (void)device_.wait_stream(stream_);
  FreeAll();
  for (const auto& [kind, memory] : pools_) device_.free(memory);
  device_.free(flush_);
  device_.free(workspace_);
  device_.free_event(begin_);
  device_.free_event(end_);
  device_.free_stream(stream_);
}

void* Card::Allocate(size_t bytes) {
  void* memory = nullptr;
  Must(device_.allocate(bytes + 1, &memory), "device memory");
  made_.push_back(memory);
  return memory;
}

void Card::FreeAll() {
  Wait();
  for (void* memory : made_) device_.free(memory);
  made_.clear();
}

void Card::Wait() {
  Must(device_.wait_stream(stream_), "the card");
  Must(device_.poll(), "the card");
}

const std::byte* Card::Pool(DType dtype, Contents contents) {
  void*& pool = pools_[{dtype, contents.base, contents.range}];
  if (pool == nullptr) {
    const size_t size = std::max<size_t>(SizeOf(dtype), 1);
    std::vector<std::byte> bytes(options_.pool_bytes / size * size);
    for (size_t at = 0; at < bytes.size(); at += size) {
      Put(dtype, contents, static_cast<uint32_t>(random_() >> 32), bytes.data() + at);
    }
    Must(device_.allocate(options_.pool_bytes, &pool), "device memory");
    Must(device_.copy(pool, bytes.data(), bytes.size(), stream_), "copy to the card");
    Wait();
  }
  return static_cast<const std::byte*>(pool);
}

void Card::Fill(const TensorView& to, Contents contents) {
  const std::byte* pool = Pool(to.dtype(), contents);
  const size_t size = std::max<size_t>(SizeOf(to.dtype()), 1);
  const size_t whole = options_.pool_bytes / size * size;
  size_t from = random_() % (whole / size) * size;
  auto* at = static_cast<std::byte*>(to.raw());
  for (size_t left = to.num_bytes(); left > 0;) {
    const size_t part = std::min(left, whole - from);
    Must(device_.copy(at, pool + from, part, stream_), "fill");
    at += part;
    left -= part;
    from = 0;
  }
}

TensorView Card::Make(DType dtype, std::initializer_list<int64_t> shape, Contents contents) {
  const TensorView like(static_cast<void*>(nullptr), dtype, shape);
  const TensorView made(Allocate(like.num_bytes()), dtype, shape);
  Fill(made, contents);
  return made;
}

void Card::Upload(const TensorView& to, const void* from) {
  Must(device_.copy(to.raw(), from, to.num_bytes(), stream_), "copy to the card");
  Wait();
}

void Card::Download(void* to, const TensorView& from) {
  Must(device_.copy(to, from.raw(), from.num_bytes(), stream_), "copy from the card");
  Wait();
}

double Card::RunOnce(const std::function<void()>& run, const std::string& what) {
  auto* flush = static_cast<std::byte*>(flush_);
  Must(device_.copy(flush, flush + options_.flush_bytes, options_.flush_bytes, stream_), what);
  Must(device_.record(begin_, stream_), what);
  run();
  Must(device_.record(end_, stream_), what);
  Must(device_.wait_stream(stream_), what);
  Must(device_.poll(), what);
  float ms = 0.0f;
  Must(device_.elapsed(begin_, end_, &ms), what);
  return 1e3 * static_cast<double>(ms);
}

double Card::Time(const std::function<void()>& run, const std::string& what) {
  const double first_us = RunOnce(run, what), first_ms = first_us * 1e-3;
  if (first_ms > 10 * options_.case_ms && options_.case_ms > 0) return first_us;
  const int runs = std::clamp(static_cast<int>(options_.case_ms / std::max(first_ms, 1e-3)), 1,
                              options_.runs_max);
  std::vector<double> us;
  for (int i = 0; i < runs; ++i) us.push_back(RunOnce(run, what));
  std::nth_element(us.begin(), us.begin() + runs / 2, us.end());
  return us[static_cast<size_t>(runs / 2)];
}

}  // namespace choir::gpu
