// The card that is measured: memory with random contents, and times. One thread, for one module.
// Errors of the device end the process (must.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "common/tensor/tensor_view.h"
#include "kernels/cuda/module_api.h"

namespace choir::gpu {

struct CardOptions {
  uint64_t seed = 1;                            // of all contents
  size_t pool_bytes = (size_t{32} << 20) + 97;  // random bytes of each kind
  size_t flush_bytes = size_t{256} << 20;       // copied ahead of each run that is timed: the L2's
  size_t workspace_bytes = size_t{160} << 20;   // a worker's is as large: rows take one pass
  double case_ms = 100;                         // about as long as each case is repeated
  int runs_max = 30;
};

// What tensors hold: f32, bf16 and f16 uniform in [base - range, base + range], f8 finite with all
// exponents, f4 and u8 (scales of f4) any that are ordinary numbers, i32 zero.
struct Contents {
  double range = 1;
  double base = 0;
};

class Card {
 public:
  Card(const cuda::DeviceTable& device, const CardOptions& options);
  ~Card();
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  const cuda::DeviceTable& device() const { return device_; }
  void* stream() const { return stream_; }
  cuda::KernelStream kernel_stream() const {
    return {stream_, {static_cast<std::byte*>(workspace_), options_.workspace_bytes}};
  }

  // Memory until FreeAll, filled on the card from a pool of random bytes, each time from another
  // place in it.
  TensorView Make(DType dtype, std::initializer_list<int64_t> shape, Contents contents = {});
  void Fill(const TensorView& to, Contents contents = {});
  void Upload(const TensorView& to, const void* from);  // all of it; returns when done
  void Download(void* to, const TensorView& from);
  void* Allocate(size_t bytes);
  void FreeAll();
  void Wait();  // and looks for errors

  // Microseconds of one run: the median of several, each after a copy that clears the L2. The first
  // one warms up; where it takes far longer than a case may, it is the only one.
  double Time(const std::function<void()>& run, const std::string& what);

 private:
  using Kind = std::tuple<DType, double, double>;
  const std::byte* Pool(DType dtype, Contents contents);
  double RunOnce(const std::function<void()>& run, const std::string& what);

  const cuda::DeviceTable& device_;
  const CardOptions options_;
  std::mt19937_64 random_;
  void* stream_ = nullptr;
  void* begin_ = nullptr;
  void* end_ = nullptr;
  void* workspace_ = nullptr;
  void* flush_ = nullptr;
  std::map<Kind, void*> pools_;
  std::vector<void*> made_;
};

}  // namespace choir::gpu
