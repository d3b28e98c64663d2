#include "tools/gpu/exchange_play.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "common/base/clock.h"
#include "worker/comm/device_collectives.h"
#include "worker/device/device.h"
#include "worker/device/measuring_device.h"
#include "worker/device/table_device.h"

namespace choir::gpu {
namespace {

using Bytes = std::vector<std::byte>;

class HostRows final : public RowMover {
 public:
  HostRows(Collectives* collectives, size_t bytes_max)
      : c_(*collectives), out_(bytes_max * static_cast<size_t>(c_.size())), in_(out_.size()) {}
  Status Move(std::span<const std::byte> out, std::span<const size_t> out_bytes,
              std::span<std::byte> in, std::span<const size_t> in_bytes) override {
    return c_.AllToAllV(out, out_bytes, in, in_bytes);
  }
  Status MoveAgain(size_t bytes) override {
    const auto n = static_cast<size_t>(c_.size());
    const std::vector<size_t> each(n, bytes);
    return c_.AllToAllV(std::span(out_).first(n * bytes), each, std::span(in_).first(n * bytes),
                        each);
  }

 private:
  Collectives& c_;
  Bytes out_, in_;
};

// A rank's own part never travels.
class DeviceRows final : public RowMover {
 public:
  explicit DeviceRows(Collectives* collectives)
      : link_(*collectives->device()),
        ranks_(static_cast<size_t>(collectives->size())),
        self_(static_cast<size_t>(collectives->rank())) {}
  ~DeviceRows() override {
    if (device_ == nullptr) return;
    device_->Guard({});
    link_.Leave();
  }
  Status Open(const cuda::DeviceTable& table, int32_t card, size_t bytes_max) {
    const size_t bytes = bytes_max * ranks_ + 1;
    CHOIR_ASSIGN_OR_RETURN(device_, MakeTableDevice(table, card));
    CHOIR_RETURN_IF_ERROR(device_->Use());
    CHOIR_RETURN_IF_ERROR(device_->Reserve(2 * AlignedBytes(bytes)));
    CHOIR_ASSIGN_OR_RETURN(send_, StagedBuffer::Make(device_.get(), bytes));
    CHOIR_ASSIGN_OR_RETURN(recv_, StagedBuffer::Make(device_.get(), bytes));
    device_->Guard([this] { return link_.Look(); });
    return {};
  }

  Status Move(std::span<const std::byte> out, std::span<const size_t> out_bytes,
              std::span<std::byte> in, std::span<const size_t> in_bytes) override {
    const size_t sent = CopyOthers(out.data(), send_.host(), out_bytes, true);
    send_.Upload(0, sent);
    const size_t got = Sum(in_bytes) - in_bytes[self_];
    if (got > 0) std::memset(recv_.host(), 0xee, got);
    recv_.Upload(0, got);
    CHOIR_RETURN_IF_ERROR(Transfer(out_bytes, in_bytes));
    recv_.Download(0, got);
    CHOIR_RETURN_IF_ERROR(device_->Wait());
    (void)CopyOthers(recv_.host(), in.data(), in_bytes, false);
    const std::byte* own = out.data() + Sum(out_bytes.first(self_));
    std::copy_n(own, out_bytes[self_], in.data() + Sum(in_bytes.first(self_)));
    return {};
  }
  Status MoveAgain(size_t bytes) override {
    const std::vector<size_t> each(ranks_, bytes);
    CHOIR_RETURN_IF_ERROR(Transfer(each, each));
    return device_->Wait();
  }

 private:
  static size_t Sum(std::span<const size_t> sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), size_t{0});
  }
  // Parts of all but this rank, packed on the one side, with its part between on the other.
  size_t CopyOthers(const std::byte* from, std::byte* to, std::span<const size_t> bytes,
                    bool packs) const {
    size_t packed = 0, whole = 0;
    for (size_t r = 0; r < ranks_; whole += bytes[r++]) {
      if (r == self_) continue;
      std::copy_n(from + (packs ? whole : packed), bytes[r], to + (packs ? packed : whole));
      packed += bytes[r];
    }
    return packed;
  }
  Status Transfer(std::span<const size_t> out_bytes, std::span<const size_t> in_bytes) {
    std::vector<size_t> out(out_bytes.begin(), out_bytes.end());
    std::vector<size_t> in(in_bytes.begin(), in_bytes.end());
    out[self_] = in[self_] = 0;
    CHOIR_RETURN_IF_ERROR(link_.Begin({.what = "exchange",
                                       .send = send_.device(),
                                       .send_bytes = out,
                                       .recv = recv_.device(),
                                       .recv_bytes = in},
                                      device_->stream()));
    return link_.End(device_->stream());
  }

  DeviceCollectives& link_;
  const size_t ranks_, self_;
  std::unique_ptr<Device> device_;
  StagedBuffer send_, recv_;
};

std::byte ByteOf(int round, size_t from, size_t to, size_t at) {
  return static_cast<std::byte>(
      (static_cast<size_t>(round) * 131 + from * 17 + to * 29 + at * 7 + (at >> 8) * 3) & 0xff);
}

// [from][to], the same on all ranks.
std::vector<std::vector<size_t>> RaggedSizes(int round, size_t ranks, size_t most) {
  std::mt19937_64 random(static_cast<uint64_t>(round));
  std::vector<std::vector<size_t>> sizes(ranks, std::vector<size_t>(ranks));
  for (auto& row : sizes) {
    for (size_t& size : row) size = random() % 4 == 0 ? 0 : random() % (most + 1);
  }
  return sizes;
}

Status Exchange(Collectives& c, RowMover& mover, int round,
                const std::vector<std::vector<size_t>>& sizes) {
  const auto n = static_cast<size_t>(c.size()), me = static_cast<size_t>(c.rank());
  std::vector<size_t> out_bytes(n), in_bytes(n);
  Bytes out, in;
  for (size_t r = 0; r < n; ++r) {
    out_bytes[r] = sizes[me][r];
    in_bytes[r] = sizes[r][me];
    for (size_t i = 0; i < out_bytes[r]; ++i) out.push_back(ByteOf(round, me, r, i));
    in.resize(in.size() + in_bytes[r], std::byte{0xee});
  }
  CHOIR_RETURN_IF_ERROR(mover.Move(out, out_bytes, in, in_bytes));
  size_t at = 0;
  for (size_t r = 0; r < n; ++r) {
    for (size_t i = 0; i < in_bytes[r]; ++i, ++at) {
      if (in[at] == ByteOf(round, r, me, i)) continue;
      return Internal("round {}: byte {} from rank {} at rank {} is wrong", round, i, r, me);
    }
  }
  return {};
}

Status CheckGather(Collectives& c, int round) {
  const auto n = static_cast<size_t>(c.size());
  Bytes in(static_cast<size_t>(round % 23) + 1), out(in.size() * n);
  for (size_t i = 0; i < in.size(); ++i) in[i] = ByteOf(round, static_cast<size_t>(c.rank()), 0, i);
  CHOIR_RETURN_IF_ERROR(c.AllGather(in, out));
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i] == ByteOf(round, i / in.size(), 0, i % in.size())) continue;
    return Internal("round {}: byte {} of a gather is wrong at rank {}", round, i, c.rank());
  }
  return {};
}

// Microseconds of one exchange of `bytes` with each rank: the median of some.
StatusOr<double> TimeOf(Collectives& c, RowMover& mover, size_t bytes, int rounds) {
  std::vector<double> us;
  for (int i = 0; i <= rounds; ++i) {
    CHOIR_RETURN_IF_ERROR(c.Barrier());
    const MonoTime start = Clock::Real().Now();
    CHOIR_RETURN_IF_ERROR(mover.MoveAgain(bytes));
    if (i > 0) {
      us.push_back(std::chrono::duration<double, std::micro>(Clock::Real().Now() - start).count());
    }
  }
  std::nth_element(us.begin(), us.begin() + static_cast<int64_t>(us.size() / 2), us.end());
  return us[us.size() / 2];
}

constexpr size_t kSmallBytes = 8 << 10;

}  // namespace

size_t PlayOptions::bytes_max() const { return std::max({ragged_bytes, large_bytes, kSmallBytes}); }

std::unique_ptr<RowMover> HostMover(Collectives* collectives, size_t bytes_max) {
  return std::make_unique<HostRows>(collectives, bytes_max);
}

StatusOr<std::unique_ptr<RowMover>> DeviceMover(Collectives* collectives,
                                                const cuda::DeviceTable& table, int32_t card,
                                                size_t bytes_max) {
  auto made = std::make_unique<DeviceRows>(collectives);
  CHOIR_RETURN_IF_ERROR(made->Open(table, card, bytes_max));
  return std::unique_ptr<RowMover>(std::move(made));
}

Status PlayEven(Collectives& c, RowMover& mover, int round, size_t bytes) {
  const auto n = static_cast<size_t>(c.size());
  return Exchange(c, mover, round,
                  std::vector<std::vector<size_t>>(n, std::vector<size_t>(n, bytes)));
}

Status PlayExchanges(Collectives& c, RowMover& mover, const PlayOptions& options,
                     PlayTimes* times) {
  const auto n = static_cast<size_t>(c.size());
  for (int round = 0; round < options.rounds; ++round) {
    CHOIR_RETURN_IF_ERROR(c.Barrier());
    CHOIR_RETURN_IF_ERROR(Exchange(c, mover, round, RaggedSizes(round, n, options.ragged_bytes)));
    CHOIR_RETURN_IF_ERROR(CheckGather(c, round));
  }
  for (int round = 0; round < options.large_rounds; ++round) {
    CHOIR_RETURN_IF_ERROR(PlayEven(c, mover, 1000 + round, options.large_bytes));
  }
  CHOIR_ASSIGN_OR_RETURN(const double large_us,
                         TimeOf(c, mover, options.large_bytes, options.large_rounds));
  CHOIR_ASSIGN_OR_RETURN(times->small_us, TimeOf(c, mover, kSmallBytes, options.large_rounds));
  times->large_gb_per_s =
      static_cast<double>((n - 1) * options.large_bytes) / std::max(large_us, 1e-3) * 1e-3;
  return {};
}

}  // namespace choir::gpu
