// Times the CPU kernels beside the machine's limits, measured in the same run:
//   kernels_bench [path] [threads] [filter]
// Weights rotate through memory far larger than the caches, as they do in a model. Each figure is
// the median of the calls of about 0.2 s.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "kernels/kernels.h"
#include "tools/bench/limits.h"

namespace choir {
namespace {

constexpr int64_t kPoolBytes = int64_t{768} << 20;

struct Limits {
  double read = 0.0;
  double f32 = 0.0;
  double bf16 = 0.0;
};

class Bench {
 public:
  Bench(const KernelSet& kernels, int threads, std::string filter)
      : kernels_(kernels),
        filter_(std::move(filter)),
        team_(threads),
        pool_(static_cast<size_t>(kPoolBytes)),
        workspace_(new (std::align_val_t{64}) std::byte[kernels.WorkspaceBytes(kMost, threads)]),
        stream_{.team = &team_, .workspace = {workspace_, kernels.WorkspaceBytes(kMost, threads)}} {
    // Bf16 numbers below 1, also when read as f32: 0x3d80..0x3dff in each half.
    for (size_t i = 0; i < pool_.size(); ++i) {
      pool_[i] =
          static_cast<std::byte>(i % 2 == 1 ? 0x3d : (0x80 | (i * 2654435761u >> 20 & 0x7f)));
    }
    limits_ = {bench::ReadBandwidth(pool_, team_), bench::FmaPeak(team_),
               bench::Bf16DotPeak(team_)};
    std::printf(
        "%s, %d threads; limits: read %.1f GB/s, f32 FMA %.0f GFLOPS, BF16 dot %.0f GFLOPS\n",
        kernels.Name().c_str(), threads, limits_.read * 1e-9, limits_.f32 * 1e-9,
        limits_.bf16 * 1e-9);
    std::printf("%-12s %-34s %10s %8s %6s %9s %6s\n", "op", "shape", "us", "GB/s", "%read",
                "GFLOPS", "%peak");
  }
  ~Bench() { ::operator delete[](workspace_, std::align_val_t{64}); }

  void Run() {
    Linears();
    for (const DType dtype : {DType::kBF16, DType::kF8E4M3, DType::kF4E2M1}) {
      Experts("ds2", 64, 6, 2048, 1408, dtype);
    }
    Experts("demo", 32, 8, 576, 128);
    Attention(9, 3, 64);
    Attention(32, 4, 128);
    Mla();
    Small(1);
    Small(512);
  }

 private:
  static constexpr KernelLimits kMost{
      .rows_max = 4096, .columns_max = 4096, .positions_max = 32768, .heads_max = 64};

  // `bytes` of weights that were not used lately.
  const void* Weights(int64_t bytes) {
    const int64_t rounded = (bytes + 4095) / 4096 * 4096;
    if (next_ + rounded > kPoolBytes) next_ = 0;
    const void* p = pool_.data() + next_;
    next_ += rounded;
    return p;
  }

  TensorView Values(std::initializer_list<int64_t> shape) {
    const TensorView view(static_cast<void*>(nullptr), DType::kF32, shape);
    auto& memory = values_.emplace_back(static_cast<size_t>(view.num_elements()) + 16, 0.01f);
    for (size_t i = 0; i < memory.size(); ++i)
      memory[i] = 0.01f * static_cast<float>(i % 97) - 0.4f;
    return TensorView(memory.data(), DType::kF32, shape);
  }

  void Time(const char* op, const std::string& shape, double bytes, double flops, bool bf16,
            const std::function<void()>& call) {
    if ((std::string(op) + " " + shape).find(filter_) == std::string::npos) return;
    std::vector<double> seconds;
    call();
    const double begin = bench::Now(team_);
    double last = begin;
    do {
      call();
      const double now = bench::Now(team_);
      seconds.push_back(now - last);
      last = now;
    } while (seconds.size() < 5 || last - begin < 0.2);
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<int64_t>(seconds.size() / 4),
                     seconds.end());
    const double s = seconds[seconds.size() / 4];
    const double peak = bf16 && limits_.bf16 > 0 ? limits_.bf16 : limits_.f32;
    std::printf("%-12s %-34s %10.1f %8.1f %5.0f%% %9.1f %5.0f%%\n", op, shape.c_str(), s * 1e6,
                bytes / s * 1e-9, 100 * bytes / s / limits_.read, flops / s * 1e-9,
                100 * flops / s / peak);
  }

  // A matrix of cold weights with the scales that its dtype has.
  struct Cold {
    TensorView w, scale;
  };
  Cold ColdMatrix(DType dtype, int64_t rows, int64_t width) {
    Cold m{TensorView(Weights(BytesOf(dtype, rows * width)), dtype, {rows, width}), {}};
    if (dtype == DType::kF8E4M3) {
      const int64_t blocks = (rows + 127) / 128;
      const int64_t columns = (width + 127) / 128;
      m.scale = TensorView(Weights(blocks * columns * 4), DType::kF32, {blocks, columns});
    } else if (dtype == DType::kF4E2M1) {
      m.scale = TensorView(Weights(rows * width / 32), DType::kU8, {rows, width / 32});
    }
    return m;
  }
  static int64_t ColdBytes(const Cold& m) {
    return static_cast<int64_t>(m.w.num_bytes() + (m.scale.empty() ? 0 : m.scale.num_bytes()));
  }

  void Linears() {
    for (const auto& [outputs, width] : {std::pair<int64_t, int64_t>{2048, 2048}, {576, 576}}) {
      for (const DType dtype :
           {DType::kBF16, DType::kF32, DType::kF16, DType::kF8E4M3, DType::kF4E2M1}) {
        for (const Compute compute : {Compute::kBF16, Compute::kF32}) {
          const bool f32_only = dtype == DType::kF32 || dtype == DType::kF16;
          if (f32_only && compute == Compute::kBF16) continue;
          for (const int64_t rows : {1, 4, 8, 32, 512})
            TimeLinear(dtype, compute, rows, outputs, width);
        }
      }
    }
  }

  void TimeLinear(DType dtype, Compute compute, int64_t rows, int64_t outputs, int64_t width) {
    LinearArgs a{.x = Values({rows, width}), .y = Values({rows, outputs}), .compute = compute};
    const auto choose = [&] {
      const Cold m = ColdMatrix(dtype, outputs, width);
      a.w = m.w;
      a.w_scale = m.scale;
      return ColdBytes(m);
    };
    const int64_t bytes = choose();
    Time("Linear",
         std::to_string(rows) + " x " + std::to_string(width) + " -> " + std::to_string(outputs) +
             " " + NameOf(dtype) + (compute == Compute::kBF16 ? " kBF16" : " kF32"),
         static_cast<double>(bytes), static_cast<double>(a.Flops()), compute == Compute::kBF16,
         [&] {
           choose();
           kernels_.Linear(a, stream_);
         });
  }

  // `tokens` tokens, each to top_k experts spread evenly.
  void Experts(const char* name, int64_t experts, int64_t top_k, int64_t hidden, int64_t inner,
               DType dtype = DType::kBF16) {
    for (const int64_t tokens : {1, 8, 32, 512}) {
      const int64_t rows = tokens * top_k;
      const int64_t hit = std::min(experts, rows);
      std::vector<int32_t> offsets(1, 0);
      for (int64_t e = 0; e < hit; ++e) {
        offsets.push_back(static_cast<int32_t>(rows * (e + 1) / hit));
      }
      std::vector<ExpertWeights> weights(static_cast<size_t>(hit));
      const auto choose = [&] {
        int64_t bytes = 0;
        for (ExpertWeights& w : weights) {
          const Cold gate = ColdMatrix(dtype, inner, hidden);
          const Cold up = ColdMatrix(dtype, inner, hidden);
          const Cold down = ColdMatrix(dtype, hidden, inner);
          w = {.gate = gate.w,
               .up = up.w,
               .down = down.w,
               .gate_scale = gate.scale,
               .up_scale = up.scale,
               .down_scale = down.scale};
          bytes += ColdBytes(gate) + ColdBytes(up) + ColdBytes(down);
        }
        return bytes;
      };
      const int64_t bytes = choose();
      const ExpertFfnArgs a{.x = Values({rows, hidden}),
                            .offsets = offsets,
                            .experts = weights,
                            .y = Values({rows, hidden}),
                            .scratch = Values({rows, inner}),
                            .compute = Compute::kBF16};
      Time("ExpertFfn",
           std::string(name) + " " + NameOf(dtype) + ", " + std::to_string(tokens) + " tokens",
           static_cast<double>(bytes), static_cast<double>(a.Flops()), true, [&] {
             choose();
             kernels_.ExpertFfn(a, stream_);
           });
    }
  }

  void Attention(int64_t heads, int64_t kv_heads, int64_t head_dim) {
    for (const auto& [rows, keys] :
         {std::pair<int64_t, int64_t>{1, 1024}, {1, 16384}, {512, 512}}) {
      std::vector<int32_t> table(static_cast<size_t>(keys / 16));
      std::iota(table.begin(), table.end(), 0);
      const AttentionSequence sequence{0, static_cast<int32_t>(rows),
                                       static_cast<int32_t>(keys - rows), table.data()};
      const TensorView pool(pool_.data(), DType::kBF16, {keys / 16, 16, kv_heads * head_dim});
      PagedAttentionArgs a{.q = Values({rows, heads, head_dim}),
                           .k = {pool},
                           .v = {pool},
                           .out = Values({rows, heads, head_dim}),
                           .sequences = {&sequence, 1},
                           .kv_heads = kv_heads,
                           .scale = 0.1f};
      const auto bytes = static_cast<int64_t>(pool.num_bytes());
      const double seen = static_cast<double>(rows) *
                          (static_cast<double>(keys) - static_cast<double>(rows - 1) / 2);
      Time("Attention",
           std::to_string(heads) + "/" + std::to_string(kv_heads) + " x " +
               std::to_string(head_dim) + ", " + std::to_string(rows) + " of " +
               std::to_string(keys),
           static_cast<double>(2 * bytes), 4.0 * seen * static_cast<double>(heads * head_dim),
           false, [&] {
             a.k.data =
                 TensorView(Weights(bytes), DType::kBF16, {keys / 16, 16, kv_heads * head_dim});
             a.v.data =
                 TensorView(Weights(bytes), DType::kBF16, {keys / 16, 16, kv_heads * head_dim});
             kernels_.PagedAttention(a, stream_);
           });
    }
  }

  void Mla() {
    for (const auto& [rows, keys] :
         {std::pair<int64_t, int64_t>{1, 1024}, {1, 16384}, {512, 512}}) {
      std::vector<int32_t> table(static_cast<size_t>(keys / 16));
      std::iota(table.begin(), table.end(), 0);
      const AttentionSequence sequence{0, static_cast<int32_t>(rows),
                                       static_cast<int32_t>(keys - rows), table.data()};
      const int64_t bytes = keys * 576 * 2;
      MlaAttentionArgs a{.q_latent = Values({rows, 16, 512}),
                         .q_rope = Values({rows, 16, 64}),
                         .latent = {},
                         .out = Values({rows, 16, 512}),
                         .sequences = {&sequence, 1},
                         .scale = 0.1f};
      const double seen = static_cast<double>(rows) *
                          (static_cast<double>(keys) - static_cast<double>(rows - 1) / 2);
      Time("Mla", "16 x 512+64, " + std::to_string(rows) + " of " + std::to_string(keys),
           static_cast<double>(bytes), 2.0 * seen * 16 * (576 + 512), false, [&] {
             a.latent.data = TensorView(Weights(bytes), DType::kBF16, {keys / 16, 16, 576});
             kernels_.MlaAttention(a, stream_);
           });
    }
    for (const int64_t rows : {1, 512}) {
      for (const bool transpose : {false, true}) {
        HeadProjectArgs a{.x = Values({rows, 16, transpose ? 512 : 128}),
                          .w = {},
                          .w_head_stride = 256 * 512,
                          .transpose = transpose,
                          .y = Values({rows, 16, transpose ? 128 : 512}),
                          .compute = Compute::kBF16};
        Time("HeadProject", std::to_string(rows) + (transpose ? " 512 -> 128" : " 128 -> 512"),
             16.0 * 128 * 512 * 2, static_cast<double>(2 * rows * 16 * 128 * 512), true, [&] {
               a.w = TensorView(Weights(16 * 256 * 512 * 2), DType::kBF16, {128, 512});
               kernels_.HeadProject(a, stream_);
             });
      }
    }
  }

  // What a layer does besides, at the demo model's sizes.
  void Small(int64_t rows) {
    const std::string prefix = std::to_string(rows) + " x ";
    const RmsNormArgs norm{.x = Values({rows, 576}), .w = Values({576}), .y = Values({rows, 576})};
    Time("RmsNorm", prefix + "576", static_cast<double>(norm.Bytes()),
         static_cast<double>(norm.Flops()), false, [&] { kernels_.RmsNorm(norm, stream_); });
    std::vector<int32_t> positions(static_cast<size_t>(rows), 7);
    for (const bool interleaved : {false, true}) {
      const RopeArgs rope{.x = Values({rows, 576}),
                          .num_tokens = rows,
                          .num_heads = 9,
                          .token_stride = 576,
                          .head_stride = 64,
                          .rotary_dim = 64,
                          .interleaved = interleaved,
                          .cos = Values({64, 32}),
                          .sin = Values({64, 32}),
                          .positions = TensorView(positions.data(), DType::kI32, {rows})};
      Time("Rope", prefix + (interleaved ? "9 x 64 interleaved" : "9 x 64"),
           static_cast<double>(rope.Bytes()), static_cast<double>(rope.Flops()), false,
           [&] { kernels_.Rope(rope, stream_); });
    }
    const SwiGluArgs swiglu{
        .gate = Values({rows, 1536}), .up = Values({rows, 1536}), .y = Values({rows, 1536})};
    Time("SwiGlu", prefix + "1536", static_cast<double>(swiglu.Bytes()),
         static_cast<double>(swiglu.Flops()), false, [&] { kernels_.SwiGlu(swiglu, stream_); });
    for (const auto& [experts, groups] : {std::pair<int64_t, int32_t>{32, 1}, {256, 8}}) {
      std::vector<int32_t> ids(static_cast<size_t>(rows * 8));
      const GateTopKArgs gate{.logits = Values({rows, experts}),
                              .score = GateScore::kSigmoid,
                              .num_groups = groups,
                              .groups_kept = (groups + 1) / 2,
                              .normalize = true,
                              .expert_ids = TensorView(ids.data(), DType::kI32, {rows, 8}),
                              .weights = Values({rows, 8})};
      Time("GateTopK", prefix + std::to_string(experts), static_cast<double>(gate.Bytes()),
           static_cast<double>(gate.Flops()), false, [&] { kernels_.GateTopK(gate, stream_); });
    }
    const CombineArgs combine{
        .y = Values({rows * 8, 576}), .weights = Values({rows, 8}), .out = Values({rows, 576})};
    Time("Combine", prefix + "8 x 576", static_cast<double>(combine.Bytes()),
         static_cast<double>(combine.Flops()), false, [&] { kernels_.Combine(combine, stream_); });
  }

  const KernelSet& kernels_;
  const std::string filter_;
  ThreadTeam team_;
  std::vector<std::byte> pool_;
  std::byte* workspace_;
  Stream stream_;
  Limits limits_;
  int64_t next_ = 0;
  std::vector<std::vector<float>> values_;
};

}  // namespace
}  // namespace choir

int main(int argc, char** argv) {
  const std::string path = argc > 1 ? argv[1] : "auto";
  const int threads =
      argc > 2 ? std::atoi(argv[2]) : static_cast<int>(std::thread::hardware_concurrency());
  auto kernels = choir::MakeCpuKernels(path);
  if (!kernels.ok() || threads < 1 || threads > 256) {
    std::fprintf(stderr, "usage: kernels_bench [path] [threads 1..256] [filter]\n%s\n",
                 choir::MessageOf(kernels.status()).c_str());
    return 2;
  }
  choir::Bench(**kernels, threads, argc > 3 ? argv[3] : "").Run();
  return 0;
}
