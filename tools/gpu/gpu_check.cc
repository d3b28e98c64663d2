// choir-gpu-check: what the card here allows and how near to it each kernel comes.
//   choir-gpu-check [--probe] [OUT]
// --probe: only says what there is. Writes OUT/gpu_check.json and OUT/gpu_check.md. Exit codes: 0
// all ran, 1 a kernel failed, 2 wrong use, 3 no GPU that can be used (and why).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/cuda/module_loader.h"
#include "tools/gpu/bench_cases.h"

namespace choir::gpu {
namespace {

constexpr int kNoGpu = 3;
constexpr float kCaseMilliseconds = 200.0f;  // about as long as each is repeated
constexpr int kRunsMax = 50;

using cuda::DeviceTable;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "choir-gpu-check: %s\n", what.c_str());
  std::exit(1);
}

void Must(const char* error, const std::string& what) {
  if (error != nullptr) Fail(what + ": " + error);
}

// Device memory, given back at the end: all cases together take less than 10 GB.
class DeviceMemory final : public BenchMemory {
 public:
  explicit DeviceMemory(const DeviceTable& device) : device_(device) {}
  ~DeviceMemory() override {
    for (void* memory : made_) device_.free(memory);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  TensorView Make(DType dtype, std::initializer_list<int64_t> shape) override {
    void* memory = nullptr;
    const TensorView like(memory, dtype, shape);
    Must(device_.allocate(like.num_bytes() + 1, &memory), "device memory");
    made_.push_back(memory);
    // As f32 and bf16 about 0.06, as f8 small; ids and scales by exponent 127: zero and one.
    const int byte = dtype == DType::kI32 ? 0 : dtype == DType::kU8 ? 127 : 0x3d;
    const std::vector<char> bytes(std::min<size_t>(like.num_bytes(), kPart),
                                  static_cast<char>(byte));
    for (size_t at = 0; at < like.num_bytes(); at += kPart) {
      Copy(static_cast<char*>(memory) + at, bytes.data(), std::min(kPart, like.num_bytes() - at));
    }
    return TensorView(memory, dtype, shape);
  }
  void Fill(const TensorView& i32, const std::vector<int32_t>& values) override {
    Copy(i32.raw(), values.data(), values.size() * sizeof(int32_t));
  }

 private:
  static constexpr size_t kPart = size_t{16} << 20;

  void Copy(void* to, const void* from, size_t bytes) {
    Must(device_.copy(to, from, bytes, nullptr), "copy to the device");
    Must(device_.wait_stream(nullptr), "copy to the device");
  }

  const DeviceTable& device_;
  std::vector<void*> made_;
};

class Timer {
 public:
  explicit Timer(const DeviceTable& device) : device_(device) {
    Must(device.make_stream(&stream_), "stream");
    Must(device.make_event(&begin_), "event");
    Must(device.make_event(&end_), "event");
  }
  void* stream() const { return stream_; }

  // Microseconds of one run, after one that warms up.
  template <class Run>
  double Microseconds(const Run& run, const std::string& what) {
    const float first = Milliseconds(run, 1, what);
    const int runs =
        std::clamp(static_cast<int>(kCaseMilliseconds / std::max(first, 1e-3f)), 1, kRunsMax);
    return 1e3 * static_cast<double>(Milliseconds(run, runs, what)) / runs;
  }

 private:
  template <class Run>
  float Milliseconds(const Run& run, int runs, const std::string& what) {
    Must(device_.record(begin_, stream_), what);
    for (int i = 0; i < runs; ++i) run();
    Must(device_.record(end_, stream_), what);
    Must(device_.wait_stream(stream_), what);
    Must(device_.poll(), what);
    float milliseconds = 0.0f;
    Must(device_.elapsed(begin_, end_, &milliseconds), what);
    return milliseconds;
  }

  const DeviceTable& device_;
  void* stream_ = nullptr;
  void* begin_ = nullptr;
  void* end_ = nullptr;
};

// GB/s that a copy inside the card's memory reads and writes together.
double CopyRate(const DeviceTable& device, Timer& timer) {
  constexpr size_t kBytes = size_t{1} << 30;
  void* from = nullptr;
  void* to = nullptr;
  Must(device.allocate(kBytes, &from), "device memory");
  Must(device.allocate(kBytes, &to), "device memory");
  const double us = timer.Microseconds(
      [&] { Must(device.copy(to, from, kBytes, timer.stream()), "copy"); }, "copy");
  device.free(from);
  device.free(to);
  return 2.0 * static_cast<double>(kBytes) / us * 1e-3;
}

struct Row {
  std::string op, shape;
  double us, gbs, tflops, copy_share;
};

std::vector<Row> TimeAll(const cuda::Module& module, Timer& timer, double copy_rate) {
  const DeviceTable& device = module.device;
  DeviceMemory memory(device);
  constexpr size_t kWorkspace = size_t{64} << 20;
  void* workspace = nullptr;
  Must(device.allocate(kWorkspace, &workspace), "device memory");
  const cuda::KernelStream stream{timer.stream(), {static_cast<std::byte*>(workspace), kWorkspace}};
  std::vector<Row> rows;
  ForBenchCases(module.tensor, {}, memory, [&](const BenchCase& c) {
    const double us = timer.Microseconds([&] { c.run(stream); }, c.op + " " + c.shape);
    const double gbs = static_cast<double>(c.bytes) / us * 1e-3;
    rows.push_back({c.op, c.shape, us, gbs, static_cast<double>(c.flops) / us * 1e-6,
                    100.0 * gbs / copy_rate});
    std::printf("%-16s %-52s %10.1f us %8.1f GB/s %5.1f %% of copy %8.2f TFLOPS\n", c.op.c_str(),
                c.shape.c_str(), us, gbs, rows.back().copy_share, rows.back().tflops);
  });
  device.free(workspace);
  return rows;
}

void Write(const std::string& out, const cuda::Module& module, const cuda::DeviceInfo& info,
           double copy_rate, const std::vector<Row>& rows) {
  std::filesystem::create_directories(out);
  nlohmann::ordered_json json = {
      {"card", info.name},
      {"compute_capability", fmt::format("{}.{}", info.major, info.minor)},
      {"driver_cuda", info.driver_version},
      {"module_cuda", info.runtime_version},
      {"architectures", module.architectures},
      {"kernels", module.tensor.name},
      {"copy_gb_per_s", copy_rate},
      {"ops", nlohmann::ordered_json::array()}};
  std::string table =
      fmt::format("Card: {}; a copy inside its memory: {:.0f} GB/s; kernels: {}\n\n", info.name,
                  copy_rate, module.tensor.name);
  table += "| op | shape | us | GB/s, share of the copy | TFLOPS |\n|---|---|---|---|---|\n";
  for (const Row& r : rows) {
    json["ops"].push_back({{"op", r.op},
                           {"shape", r.shape},
                           {"us", r.us},
                           {"gb_per_s", r.gbs},
                           {"copy_percent", r.copy_share},
                           {"tflops", r.tflops}});
    table += fmt::format("| {} | {} | {:.1f} | {:.1f}, {:.1f} % | {:.2f} |\n", r.op, r.shape, r.us,
                         r.gbs, r.copy_share, r.tflops);
  }
  std::ofstream(out + "/gpu_check.json") << json.dump(2) << "\n";
  std::ofstream(out + "/gpu_check.md") << table;
}

int Main(int argc, char** argv) {
  const bool probe = argc > 1 && std::strcmp(argv[1], "--probe") == 0;
  if (argc > 2 || (argc > 1 && argv[1][0] == '-' && !probe)) {
    std::fprintf(stderr, "usage: choir-gpu-check [--probe | OUT]\n");
    return 2;
  }
  const auto opened = OpenUsableCudaModule(DefaultCudaModule());
  if (!opened.ok()) {
    std::fprintf(stderr, "choir-gpu-check: nothing was checked: %s\n",
                 MessageOf(opened.status()).c_str());
    return kNoGpu;
  }
  const cuda::Module& module = **opened;
  Must(module.device.use(0), "the card");
  cuda::DeviceInfo info;
  Must(module.device.info(0, &info), "the card");
  std::printf("%s, compute capability %d.%d, %.0f GiB\n", info.name, info.major, info.minor,
              static_cast<double>(info.memory_bytes) / (1 << 30));
  if (probe) return 0;
  Timer timer(module.device);
  const double copy_rate = CopyRate(module.device, timer);
  std::printf("a copy inside its memory: %.0f GB/s\n", copy_rate);
  Write(argc > 1 ? argv[1] : ".", module, info, copy_rate, TimeAll(module, timer, copy_rate));
  return 0;
}

}  // namespace
}  // namespace choir::gpu

int main(int argc, char** argv) { return choir::gpu::Main(argc, argv); }
