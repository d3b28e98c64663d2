// What gpu_check would run on a card, run once in the emulation at small shapes: no launch may be
// refused, no memory missed.
#include "tools/gpu/bench_cases.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "tests/support/gpu_emulation/emulated_kernels.h"

namespace choir::gpu {
namespace {

constexpr BenchShapes kSmall{.tokens = 5,
                             .batch = 3,
                             .context = 70,
                             .hidden = 96,
                             .inner = 40,
                             .experts = 16,
                             .top_k = 4,
                             .grouped_rows = 18,
                             .heads = 2,
                             .lora = 24,
                             .rope = 8,
                             .vocab = 130};

class HostMemory final : public BenchMemory {
 public:
  TensorView Make(DType dtype, std::initializer_list<int64_t> shape) override {
    const TensorView like(static_cast<void*>(nullptr), dtype, shape);
    auto& bytes = made_.emplace_back(like.num_bytes() + 64);
    const int byte = dtype == DType::kI32 ? 0 : dtype == DType::kU8 ? 127 : 0x3d;
    std::memset(bytes.data(), byte, like.num_bytes());
    return TensorView(static_cast<void*>(bytes.data()), dtype, shape);
  }
  void Fill(const TensorView& i32, const std::vector<int32_t>& values) override {
    ASSERT_EQ(i32.num_elements(), static_cast<int64_t>(values.size()));
    std::memcpy(i32.raw(), values.data(), values.size() * sizeof(int32_t));
  }

 private:
  std::vector<std::vector<std::byte>> made_;
};

TEST(GpuBenchCases, RunOnEveryOpAndSayWhatTheyMove) {
  HostMemory memory;
  std::vector<std::byte> workspace(1 << 20);
  std::set<std::string> ops, names;
  ForBenchCases(emulation::EmulatedTable(), kSmall, memory, [&](const BenchCase& c) {
    SCOPED_TRACE(c.op + " " + c.shape);
    ops.insert(c.op);
    EXPECT_TRUE(names.insert(c.op + " " + c.shape).second) << "named twice";
    EXPECT_GT(c.bytes, 0);
    EXPECT_GE(c.flops, 0);
    c.run({.workspace = workspace});
  });
  for (const char* op :
       {"rms_norm", "swi_glu", "embedding", "rope", "quantize_f8", "gate_top_k", "permute",
        "unpermute", "linear", "grouped_gemm", "paged_attention", "mla_attention", "sample"}) {
    EXPECT_EQ(ops.count(op), 1u) << op;
  }
}

}  // namespace
}  // namespace choir::gpu
