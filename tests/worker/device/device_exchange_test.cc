// The exchange with rows on a device brings the very rows to the very places that the one in the
// host's memory does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "tests/support/gpu_emulation/gpu_ranks.h"
#include "tests/support/run_ranks.h"
#include "worker/comm/local_collectives.h"
#include "worker/model/exchange_maker.h"

namespace choir {
namespace {

struct Shape {
  int ranks = 1;
  int32_t experts = 8;
  int64_t top_k = 2;
  DType payload = DType::kF32;
  int32_t copies = 0;  // of experts of the next rank, on each rank
};
constexpr int64_t kHidden = 9, kTokens = 6;

struct Result {
  std::vector<std::byte> dispatched;
  std::vector<int32_t> offsets;
  std::vector<float> combined;
  uint64_t bytes_sent = 0;
  bool operator==(const Result&) const = default;
};

// Values on the device of a rank, through its own copies.
class Values {
 public:
  Values(Device* device, size_t bytes) : device_(device) {
    auto staged = StagedBuffer::Make(device, bytes);
    CHOIR_CHECK(staged.ok());
    staged_ = std::move(staged).value();
  }
  template <class T>
  TensorView Set(const std::vector<T>& values, DType dtype, int64_t rows, int64_t width) {
    if (!values.empty()) std::memcpy(staged_.host(), values.data(), values.size() * sizeof(T));
    staged_.Upload(0, values.size() * sizeof(T));
    return TensorView(static_cast<void*>(staged_.device()), dtype, {rows, width});
  }
  TensorView View(int64_t rows, int64_t width) const {
    return TensorView(static_cast<void*>(staged_.device()), DType::kF32, {rows, width});
  }
  std::vector<float> Get(int64_t count) const {
    staged_.Download(0, static_cast<size_t>(count) * sizeof(float));
    CHOIR_CHECK(device_->Wait().ok());
    const auto* begin = reinterpret_cast<const float*>(staged_.host());
    return {begin, begin + count};
  }

 private:
  Device* device_;
  StagedBuffer staged_;
};

ExpertPlacement PlacementOf(const Shape& shape) {
  const ExpertPlacement first(shape.experts, shape.ranks);
  std::vector<std::vector<int32_t>> experts_of;
  for (int r = 0; r < shape.ranks; ++r) {
    std::vector<int32_t>& here = experts_of.emplace_back(first.ExpertsOf(r));
    const std::vector<int32_t>& next = first.ExpertsOf((r + 1) % shape.ranks);
    for (int32_t i = 0; shape.ranks > 1 && i < shape.copies; ++i) {
      here.push_back(next.at(static_cast<size_t>(i)));
    }
    std::sort(here.begin(), here.end());
  }
  return ExpertPlacement(shape.experts, std::move(experts_of));
}

// Rank r has kTokens - r tokens, the last rank none.
int64_t TokensOf(int rank, int ranks) {
  return rank + 1 == ranks && ranks > 1 ? 0 : kTokens - rank;
}

// One layer; expert e's output is its row plus e, in f32.
Status RunLayer(const Shape& shape, Device* device, ExpertExchange* exchange, int rank,
                Result* result) {
  std::mt19937_64 random(static_cast<uint64_t>(rank) + 1);
  const int64_t tokens = TokensOf(rank, shape.ranks);
  std::vector<float> x(static_cast<size_t>(tokens * kHidden));
  for (float& v : x) v = static_cast<float>(random() % 1000) / 7.0f;
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> all(static_cast<size_t>(shape.experts));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    std::sort(all.begin(), all.begin() + shape.top_k);
    ids.insert(ids.end(), all.begin(), all.begin() + shape.top_k);
  }
  constexpr size_t kBytes = 16384;
  Values rows(device, kBytes), choices(device, kBytes), outputs(device, kBytes), y(device, kBytes);
  const ExpertPlacement placement = PlacementOf(shape);
  CHOIR_ASSIGN_OR_RETURN(
      const DispatchedRows got,
      exchange->Dispatch(placement, rows.Set(x, DType::kF32, tokens, kHidden),
                         choices.Set(ids, DType::kI32, tokens, shape.top_k), shape.payload));
  CHOIR_ASSIGN_OR_RETURN(const DeviceBuffer host, device->AllocateHost(got.x.num_bytes()));
  device->Copy(host.data(), got.x.raw(), got.x.num_bytes());
  CHOIR_RETURN_IF_ERROR(device->Wait());
  result->dispatched.assign(host.data(), host.data() + got.x.num_bytes());
  result->offsets = got.offsets;
  std::vector<float> out(static_cast<size_t>(got.x.num_elements()));
  for (size_t e = 0; e + 1 < got.offsets.size(); ++e) {
    for (int64_t i = got.offsets[e] * kHidden; i < got.offsets[e + 1] * kHidden; ++i) {
      const float value = shape.payload == DType::kF32
                              ? reinterpret_cast<const float*>(host.data())[i]
                              : ToF32(reinterpret_cast<const bf16*>(host.data())[i]);
      out[static_cast<size_t>(i)] = value + static_cast<float>(got.experts[e]);
    }
  }
  CHOIR_RETURN_IF_ERROR(exchange->Combine(outputs.Set(out, DType::kF32, got.x.dim(0), kHidden),
                                          y.View(tokens * shape.top_k, kHidden)));
  result->combined = y.Get(tokens * shape.top_k * kHidden);
  result->bytes_sent = exchange->stats().dispatch_bytes + exchange->stats().combine_bytes;
  return {};
}

std::vector<Result> RunRanksOf(const Shape& shape, bool on_card) {
  auto ranks = MakeLocalCollectives(shape.ranks, 1, {});
  std::vector<Result> results(ranks.size());
  RunRanks(ranks, [&](Collectives& c) {
    GpuRank gpu = MakeGpuRank("gpu_emulated", c.rank());
    ASSERT_TRUE(gpu.device->Reserve(size_t{1} << 20).ok());
    Device* device = on_card ? gpu.device.get() : &HostDevice();
    const auto kernels = on_card ? std::move(gpu.kernels) : MakeReferenceKernels();
    auto maker =
        ExchangeMaker::Make(device, kernels.get(),
                            {.num_experts = shape.experts,
                             .num_ranks = shape.ranks,
                             .expert_slots = ExpertSlots(shape.experts, shape.ranks, shape.copies)},
                            {.tokens_max = kTokens, .top_k = shape.top_k, .hidden = kHidden});
    ASSERT_TRUE(maker.ok()) << maker.status();
    const auto workspace = device->Allocate(size_t{1} << 16);
    ASSERT_TRUE(workspace.ok());
    const Stream stream{.workspace = {workspace->data(), workspace->size()},
                        .native = device->stream()};
    const auto exchange = maker->ForEpoch(&c, stream);
    for (int layer = 0; layer < 2; ++layer) {
      const Status status = RunLayer(shape, device, exchange.get(), c.rank(),
                                     &results[static_cast<size_t>(c.rank())]);
      ASSERT_TRUE(status.ok()) << status;
    }
  });
  return results;
}

TEST(DeviceExchange, HasTheBitsOfTheOneOnTheHost) {
  for (const DType payload : {DType::kF32, DType::kBF16}) {
    for (const int ranks : {1, 2, 3, 4}) {
      for (const int64_t top_k : {1, 3}) {
        for (const int32_t copies : {0, 1}) {
          const Shape shape{ranks, 7, top_k, payload, copies};
          EXPECT_EQ(RunRanksOf(shape, true), RunRanksOf(shape, false))
              << ranks << " ranks, top " << top_k << ", " << copies << " copies";
        }
      }
    }
  }
}

TEST(DeviceExchange, IsNullForAModelWithoutExperts) {
  const auto maker = ExchangeMaker::Make(&HostDevice(), nullptr, {}, {});
  ASSERT_TRUE(maker.ok());
  const auto single = MakeSingleCollectives(1);
  EXPECT_EQ(maker->ForEpoch(single.get(), {}), nullptr);
}

}  // namespace
}  // namespace choir
