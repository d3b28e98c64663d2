// A card's memory, and what is put into it, for the comparisons of kernel_check.cc.
#pragma once

#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "common/base/check.h"
#include "common/tensor/small_floats.h"
#include "worker/kernel_check.h"

namespace choir {

// Memory of the card for one comparison, and what was put there. Errors stay.
class CheckedCard {
 public:
  explicit CheckedCard(const CardOfCheck& card) : device_(card.device), wait_(card.wait) {
    cuda::DeviceInfo info;
    Keep(device_.info(card.index, &info));
    processors_ = info.processors;
    if (error_ == nullptr) Keep(device_.use(card.index));
    if (error_ == nullptr) Keep(device_.make_stream(&stream_));
    if (error_ == nullptr) Keep(device_.make_event(&event_));
    if (error_ == nullptr) Keep(device_.allocate(kMemoryBytes, &memory_));
  }
  ~CheckedCard() {
    if (event_ != nullptr) (void)wait_.For(stream_, event_);  // what an error left undone
    if (stream_ != nullptr) device_.free_stream(stream_);
    if (event_ != nullptr) device_.free_event(event_);
    if (memory_ != nullptr) device_.free(memory_);
  }
  const char* error() const { return error_; }
  int64_t processors() const { return processors_; }
  // The error was of a start alone: it is forgotten, and what is done next works.
  bool GoesOn() {
    device_.forget();
    error_ = nullptr;
    Clear();
    const float sent = 1.5f;
    const TensorView there = Make(DType::kF32, {1});
    Put(there, std::as_bytes(std::span(&sent, 1)));
    return Read(there)[0] == sent && error_ == nullptr;
  }
  // What is put there next is the same whatever was there before.
  void Clear() {
    used_ = kWorkspaceBytes;
    state_ = 1;
  }
  cuda::KernelStream stream() const {
    return {.native = stream_, .workspace = {static_cast<std::byte*>(memory_), kWorkspaceBytes}};
  }

  TensorView Make(DType dtype, std::initializer_list<int64_t> shape) {
    TensorView view(static_cast<std::byte*>(memory_) + used_, dtype, shape);
    used_ += (view.num_bytes() + 255) / 256 * 256;
    CHOIR_CHECK(used_ <= kMemoryBytes);
    return view;
  }
  // Values that are exact in their format, in [-1, 1]; of scales around 1. Those in bf16 of several
  // sizes: else sums would be exact, and their bits the same in any order.
  TensorView Fill(DType dtype, std::initializer_list<int64_t> shape) {
    const TensorView view = Make(dtype, shape);
    std::vector<std::byte> bytes(view.num_bytes());
    for (int64_t i = 0; i < view.num_elements(); ++i) {
      const uint32_t drawn = Draw();
      const float value = static_cast<float>(static_cast<int>(drawn >> 16 & 255) - 128) / 128;
      if (dtype == DType::kF8E4M3) {
        bytes[static_cast<size_t>(i)] = static_cast<std::byte>(ToF8(value));
      } else if (dtype == DType::kBF16) {
        const bf16 rounded = ToBF16(value / static_cast<float>(1 << (drawn >> 24 & 7)));
        std::memcpy(&bytes[static_cast<size_t>(2 * i)], &rounded, 2);
      } else {
        const float scale = 1.0f + value / 2;
        std::memcpy(&bytes[static_cast<size_t>(4 * i)], &scale, 4);
      }
    }
    Put(view, bytes);
    return view;
  }
  TensorView SubnormalsInF8(std::initializer_list<int64_t> shape) {
    const TensorView view = Make(DType::kF8E4M3, shape);
    std::vector<std::byte> bytes(view.num_bytes());
    for (std::byte& code : bytes) {
      const uint32_t drawn = Draw();
      code = static_cast<std::byte>(1 + (drawn >> 16) % 7 + (drawn >> 24 & 0x80));
    }
    Put(view, bytes);
    return view;
  }
  // In f32, NaN all over: what a run does not write is no earlier run's result.
  void Spoil(const TensorView& view) {
    const std::vector<float> values(static_cast<size_t>(view.num_elements()),
                                    std::numeric_limits<float>::quiet_NaN());
    Put(view, std::as_bytes(std::span(values)));
  }
  // Logits of many sizes, among them some that are alike.
  TensorView Logits(int64_t rows, int64_t vocab) {
    const TensorView view = Make(DType::kF32, {rows, vocab});
    std::vector<float> values(static_cast<size_t>(view.num_elements()));
    for (float& value : values) value = static_cast<float>(Draw() >> 16) / 4096 - 8;
    Put(view, std::as_bytes(std::span(values)));
    return view;
  }
  TensorView Ints(std::span<const int32_t> values) {
    const TensorView view = Make(DType::kI32, {static_cast<int64_t>(values.size())});
    Put(view, std::as_bytes(values));
    return view;
  }
  void Copy(const TensorView& to, const TensorView& from) {
    if (error_ == nullptr) Keep(device_.copy(to.raw(), from.raw(), from.num_bytes(), stream_));
  }
  template <class T = float>
  std::vector<T> Read(const TensorView& view) {
    std::vector<T> values(static_cast<size_t>(view.num_elements()));
    if (error_ == nullptr) {
      Keep(device_.copy(values.data(), view.raw(), view.num_bytes(), stream_));
    }
    Wait();
    return values;
  }

 private:
  // A linear in many tiles takes 11 MiB on a card of 144 multiprocessors, which is all that Hopper
  // has.
  static constexpr size_t kMemoryBytes = size_t{16} << 20;
  static constexpr size_t kWorkspaceBytes = size_t{1} << 20;

  uint32_t Draw() { return state_ = state_ * 1664525u + 1013904223u; }
  void Put(const TensorView& view, std::span<const std::byte> bytes) {
    if (error_ == nullptr) Keep(device_.copy(view.raw(), bytes.data(), bytes.size(), stream_));
    Wait();
  }
  void Wait() {
    if (error_ == nullptr) Keep(wait_.For(stream_, event_));
    if (error_ == nullptr) Keep(device_.poll());
  }
  void Keep(const char* error) { error_ = error; }

  const cuda::DeviceTable& device_;
  const BoundedWait& wait_;
  void* stream_ = nullptr;
  void* event_ = nullptr;
  void* memory_ = nullptr;
  size_t used_ = kWorkspaceBytes;
  int64_t processors_ = 0;
  uint32_t state_ = 1;
  const char* error_ = nullptr;
};

}  // namespace choir
