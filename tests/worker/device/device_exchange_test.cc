// The exchange with rows on a device brings the very rows to the very places that the one in the
// host's memory does.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "tests/support/gpu_emulation/emulated_kernels.h"
#include "tests/support/gpu_emulation/gpu_ranks.h"
#include "tests/support/gpu_emulation/nccl_ranks.h"
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
  int64_t width = 9;   // of dispatched rows
};
std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.ranks << " ranks, top " << s.top_k << ", " << s.copies << " copies, width "
             << s.width;
}
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

// One layer of some of a rank's tokens, in the parts of an exchange; expert e's output is its row
// plus e, in f32.
class Layer {
 public:
  Layer(const Shape& shape, Device* device, ExpertExchange* exchange, Result* result)
      : shape_(shape),
        placement_(PlacementOf(shape)),
        device_(device),
        exchange_(exchange),
        result_(*result),
        rows_(device, kBytes),
        choices_(device, kBytes),
        outputs_(device, kBytes),
        y_(device, kBytes) {}

  Status Send(const std::vector<float>& x, const std::vector<int32_t>& ids) {
    tokens_ = std::ssize(x) / shape_.width;
    return exchange_->BeginDispatch(placement_, rows_.Set(x, DType::kF32, tokens_, shape_.width),
                                    choices_.Set(ids, DType::kI32, tokens_, shape_.top_k),
                                    shape_.payload);
  }

  Status Run() {
    CHOIR_ASSIGN_OR_RETURN(const DispatchedRows got, exchange_->EndDispatch());
    CHOIR_ASSIGN_OR_RETURN(const DeviceBuffer host, device_->AllocateHost(got.x.num_bytes()));
    device_->Copy(host.data(), got.x.raw(), got.x.num_bytes());
    CHOIR_RETURN_IF_ERROR(device_->Wait());
    result_.dispatched.insert(result_.dispatched.end(), host.data(),
                              host.data() + got.x.num_bytes());
    result_.offsets.insert(result_.offsets.end(), got.offsets.begin(), got.offsets.end());
    std::vector<float> out(static_cast<size_t>(got.x.dim(0) * kHidden));
    for (size_t e = 0; e + 1 < got.offsets.size(); ++e) {
      for (int64_t i = got.offsets[e] * kHidden; i < got.offsets[e + 1] * kHidden; ++i) {
        const int64_t from = i / kHidden * shape_.width + i % kHidden % shape_.width;
        const float value = shape_.payload == DType::kF32
                                ? reinterpret_cast<const float*>(host.data())[from]
                                : ToF32(reinterpret_cast<const bf16*>(host.data())[from]);
        out[static_cast<size_t>(i)] = value + static_cast<float>(got.experts[e]);
      }
    }
    return exchange_->BeginCombine(outputs_.Set(out, DType::kF32, got.x.dim(0), kHidden),
                                   y_.View(tokens_ * shape_.top_k, kHidden));
  }

  Status Finish() {
    CHOIR_RETURN_IF_ERROR(exchange_->EndCombine());
    const std::vector<float> y = y_.Get(tokens_ * shape_.top_k * kHidden);
    result_.combined.insert(result_.combined.end(), y.begin(), y.end());
    result_.bytes_sent = exchange_->stats().dispatch_bytes + exchange_->stats().combine_bytes;
    return {};
  }

 private:
  static constexpr size_t kBytes = 16384;
  const Shape& shape_;
  const ExpertPlacement placement_;
  Device* const device_;
  ExpertExchange* const exchange_;
  Result& result_;
  Values rows_, choices_, outputs_, y_;
  int64_t tokens_ = 0;
};

struct Tokens {
  std::vector<float> x;
  std::vector<int32_t> ids;
};
Tokens TokensFor(const Shape& shape, int rank) {
  std::mt19937_64 random(static_cast<uint64_t>(rank) + 1);
  Tokens t;
  for (int64_t i = 0; i < TokensOf(rank, shape.ranks) * shape.width; ++i) {
    t.x.push_back(static_cast<float>(random() % 1000) / 7.0f);
  }
  for (int64_t i = 0; i < TokensOf(rank, shape.ranks); ++i) {
    std::vector<int32_t> all(static_cast<size_t>(shape.experts));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    std::sort(all.begin(), all.begin() + shape.top_k);
    t.ids.insert(t.ids.end(), all.begin(), all.begin() + shape.top_k);
  }
  return t;
}

Status RunLayer(const Shape& shape, Device* device, ExpertExchange* exchange, int rank,
                Result* result) {
  *result = {};
  Layer layer(shape, device, exchange, result);
  const Tokens tokens = TokensFor(shape, rank);
  CHOIR_RETURN_IF_ERROR(layer.Send(tokens.x, tokens.ids));
  CHOIR_RETURN_IF_ERROR(layer.Run());
  return layer.Finish();
}

// The first half of the tokens and the rest as two layers: of one exchange, one after the other, or
// of two, each part of both before the next part.
Status RunHalves(const Shape& shape, Device* device, std::span<ExpertExchange* const> exchanges,
                 int rank, Result* result) {
  *result = {};
  const Tokens all = TokensFor(shape, rank);
  const int64_t cut = (TokensOf(rank, shape.ranks) + 1) / 2;
  const auto x = all.x.begin() + cut * shape.width;
  const auto ids = all.ids.begin() + cut * shape.top_k;
  const Tokens halves[] = {{{all.x.begin(), x}, {all.ids.begin(), ids}},
                           {{x, all.x.end()}, {ids, all.ids.end()}}};
  Layer first(shape, device, exchanges.front(), result);
  Layer second(shape, device, exchanges.back(), result);
  CHOIR_RETURN_IF_ERROR(first.Send(halves[0].x, halves[0].ids));
  if (exchanges.size() == 1) {
    CHOIR_RETURN_IF_ERROR(first.Run());
    CHOIR_RETURN_IF_ERROR(first.Finish());
  }
  CHOIR_RETURN_IF_ERROR(second.Send(halves[1].x, halves[1].ids));
  if (exchanges.size() == 2) CHOIR_RETURN_IF_ERROR(first.Run());
  CHOIR_RETURN_IF_ERROR(second.Run());
  if (exchanges.size() == 2) CHOIR_RETURN_IF_ERROR(first.Finish());
  return second.Finish();
}

enum class Form : uint8_t { kHostMemory, kByHost, kByDevice, kInSlots, kMicroBatches };

std::vector<Result> RunRanksOf(const Shape& shape, Form form, bool halves = false) {
  const bool on_card = form != Form::kHostMemory;
  const bool by_device = on_card && form != Form::kByHost;
  auto ranks = by_device ? MakeNcclRanks(shape.ranks, 1, {.slots = {size_t{1} << 16}})
                         : MakeLocalCollectives(shape.ranks, 1, {});
  std::vector<int64_t> tokens;
  for (int r = 0; r < shape.ranks; ++r) tokens.push_back(TokensOf(r, shape.ranks));
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
                             .expert_slots = ExpertSlots(shape.experts, shape.ranks, shape.copies),
                             .path = by_device ? RowPath::kDevice : RowPath::kHost,
                             .slot_rows = form == Form::kInSlots ? kTokens : kTokens - 1,
                             .micro_batch_rows = form == Form::kMicroBatches ? kTokens : 0},
                            {.tokens_max = kTokens, .top_k = shape.top_k, .hidden = kHidden});
    ASSERT_TRUE(maker.ok()) << maker.status();
    const auto workspace = device->Allocate(size_t{1} << 16);
    ASSERT_TRUE(workspace.ok());
    const Stream stream{.workspace = {workspace->data(), workspace->size()},
                        .native = device->stream()};
    const auto exchange = maker->ForEpoch(&c, stream);
    // Such a copy may wait for the stream, which waits for ranks that nobody looks at then.
    if (on_card) emulation::LimitUploads(0);
    for (int layer = 0; layer < 2; ++layer) {
      exchange->BeginStep(tokens);
      Result* const result = &results[static_cast<size_t>(c.rank())];
      const auto both = exchange->MicroBatches();
      ASSERT_EQ(both.size(), form == Form::kMicroBatches ? 2u : 0u);
      ExpertExchange* const one[] = {exchange.get()};
      const Status status =
          halves ? RunHalves(shape, device, both.empty() ? one : both, c.rank(), result)
                 : RunLayer(shape, device, exchange.get(), c.rank(), result);
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
          const std::vector<Result> expected = RunRanksOf(shape, Form::kHostMemory);
          EXPECT_EQ(RunRanksOf(shape, Form::kByHost), expected) << shape;
          EXPECT_EQ(RunRanksOf(shape, Form::kByDevice), expected) << shape;
          std::vector<Result> in_slots = RunRanksOf(shape, Form::kInSlots);
          for (size_t r = 0; r < in_slots.size(); ++r) {
            EXPECT_TRUE(ranks == 1 || in_slots[r].bytes_sent != expected[r].bytes_sent) << shape;
            in_slots[r].bytes_sent = expected[r].bytes_sent;
          }
          EXPECT_EQ(in_slots, expected) << shape;
        }
      }
    }
  }
}

TEST(DeviceExchange, RowsMayBeNarrowerThanOutputs) {
  for (const int ranks : {1, 3}) {
    const Shape shape{.ranks = ranks, .experts = 7, .top_k = 3, .width = 5};
    const std::vector<Result> expected = RunRanksOf(shape, Form::kHostMemory);
    EXPECT_EQ(RunRanksOf(shape, Form::kByHost), expected) << shape;
    EXPECT_EQ(RunRanksOf(shape, Form::kByDevice), expected) << shape;
    std::vector<Result> in_slots = RunRanksOf(shape, Form::kInSlots);
    for (size_t r = 0; r < in_slots.size(); ++r) in_slots[r].bytes_sent = expected[r].bytes_sent;
    EXPECT_EQ(in_slots, expected) << shape;
  }
}

TEST(DeviceExchange, TwoMicroBatchesOnTheirWayAtOnceGetWhatOneAfterTheOtherGets) {
  for (const DType payload : {DType::kF32, DType::kBF16}) {
    for (const int ranks : {2, 3}) {
      const Shape shape{ranks, 7, 3, payload, 1};
      EXPECT_EQ(RunRanksOf(shape, Form::kMicroBatches, true),
                RunRanksOf(shape, Form::kHostMemory, true))
          << shape;
    }
  }
}

TEST(DeviceExchange, OnlyStepsWithManyRowsAreMicroBatches) {
  auto ranks = MakeNcclRanks(2, 1, {.slots = {size_t{1} << 16}});
  RunRanks(ranks, [&](Collectives& c) {
    const GpuRank gpu = MakeGpuRank("gpu_emulated", c.rank());
    ASSERT_TRUE(gpu.device->Reserve(size_t{1} << 20).ok());
    const auto made = ExchangeMaker::Make(gpu.device.get(), gpu.kernels.get(),
                                          {.num_experts = 8,
                                           .num_ranks = 2,
                                           .expert_slots = 4,
                                           .path = RowPath::kDevice,
                                           .slot_rows = 2,
                                           .micro_batch_rows = 4},
                                          {.tokens_max = kTokens, .top_k = 2, .hidden = kHidden});
    ASSERT_TRUE(made.ok()) << made.status();
    const auto exchange = made->ForEpoch(&c, {.native = gpu.device->stream()});
    EXPECT_TRUE(exchange->MicroBatches().empty()) << "rows are not known";
    const auto count = [&](int64_t own, int64_t other) {
      exchange->BeginStep(std::vector<int64_t>{own, other});
      return exchange->MicroBatches().size();
    };
    EXPECT_EQ(count(2, 2), 0u) << "slots";
    EXPECT_EQ(count(3, 3), 0u);
    EXPECT_EQ(count(4, 0), 2u);
    EXPECT_EQ(count(0, 4), 2u) << "of another rank";
  });
}

TEST(DeviceExchange, IsNullForARankAloneOnADevice) {
  const GpuRank gpu = MakeGpuRank("gpu_emulated", 0);
  const auto single = MakeSingleCollectives(1);
  const ExchangeSizes sizes{.num_experts = 8, .expert_slots = 8, .alone = true};
  const ExchangeLimits limits{.tokens_max = kTokens, .top_k = 2, .hidden = kHidden};
  const auto maker = ExchangeMaker::Make(gpu.device.get(), gpu.kernels.get(), sizes, limits);
  ASSERT_TRUE(maker.ok()) << maker.status();
  EXPECT_EQ(maker->ForEpoch(single.get(), {}), nullptr);
  const auto on_host = ExchangeMaker::Make(&HostDevice(), nullptr, sizes, limits);
  EXPECT_NE(on_host->ForEpoch(single.get(), {}), nullptr);
}

TEST(DeviceExchange, IsNullForAModelWithoutExperts) {
  const auto maker = ExchangeMaker::Make(&HostDevice(), nullptr, {}, {});
  ASSERT_TRUE(maker.ok());
  const auto single = MakeSingleCollectives(1);
  EXPECT_EQ(maker->ForEpoch(single.get(), {}), nullptr);
}

}  // namespace
}  // namespace choir
