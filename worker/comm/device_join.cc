#include "worker/comm/device_join.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/log.h"
#include "worker/comm/device_collectives.h"
#include "worker/comm/local_address.h"
#include "worker/comm/nccl_collectives.h"

namespace choir {
namespace {

// Two attempts (with windows and without) are below the time in which a group has to form, 30 s, so
// that all hear how it went.
constexpr Duration kConnectMax = std::chrono::seconds(12);

template <size_t size>
void Put(const std::string& text, std::array<char, size>* to) {
  to->fill('\0');
  std::memcpy(to->data(), text.data(), std::min(text.size(), size - 1));
}

// Why NCCL cannot be used by all; "": it can.
std::string WhyNotAll(std::span<const DeviceOffer> offers) {
  for (size_t r = 0; r < offers.size(); ++r) {
    if (offers[r].why_not[0] != '\0')
      return fmt::format("rank {}: {}", r, offers[r].why_not.data());
    if (offers[r].version != offers[0].version) {
      return fmt::format("rank {} has NCCL {}, rank 0 has {}: install the same", r,
                         NcclVersion(offers[r].version), NcclVersion(offers[0].version));
    }
    const auto differs = [&](const char* flag, auto here, auto there) {
      return fmt::format("rank {} has {} {}, rank 0 has {}: give the same", r, flag, here, there);
    };
    if (offers[r].step_tokens != offers[0].step_tokens) {
      return differs("--step-tokens", offers[r].step_tokens, offers[0].step_tokens);
    }
    if (offers[r].slot_rows != offers[0].slot_rows) {
      return differs("--slot-rows", offers[r].slot_rows, offers[0].slot_rows);
    }
    if (offers[r].slot_output_bytes != offers[0].slot_output_bytes) {
      return differs("--slot-output-bytes (0 with --cpu-experts)", offers[r].slot_output_bytes,
                     offers[0].slot_output_bytes);
    }
    if (offers[r].micro_batch_rows != offers[0].micro_batch_rows) {
      return differs("--micro-batch-rows", offers[r].micro_batch_rows, offers[0].micro_batch_rows);
    }
  }
  return "";
}

// The first two ranks on one card; "": every rank has its own.
std::string WhoShares(std::span<const DeviceOffer> offers) {
  for (size_t b = 0; b < offers.size(); ++b) {
    for (size_t a = 0; a < b; ++a) {
      if (offers[a].machine != offers[b].machine || offers[a].card != offers[b].card) continue;
      return fmt::format("ranks {} and {} share the card {}, and NCCL wants one for each", a, b,
                         offers[a].card.data());
    }
  }
  return "";
}

void SetUnlessThere(const char* name, const std::string& value) {
  // Nobody else looks at these, and NCCL not before it is called.
  if (setenv(name, value.c_str(), 0) == 0) CHOIR_LOG(debug, "{}={}", name, std::getenv(name));
}

}  // namespace

DeviceChoice ChooseDevicePath(std::span<const DeviceOffer> offers) {
  DeviceChoice choice;
  const auto named = std::find_if(offers.begin(), offers.end(),
                                  [](const DeviceOffer& o) { return o.wish == DeviceWish::kNccl; });
  choice.by_name = named != offers.end();
  std::string why = WhyNotAll(offers);
  const std::string shares = WhoShares(offers);
  choice.shared_card = !shares.empty();
  if (why.empty() && !choice.by_name) why = shares;
  choice.one_machine = std::all_of(offers.begin(), offers.end(), [&](const DeviceOffer& o) {
    return o.machine == offers[0].machine;
  });
  choice.nccl = why.empty();
  if (!choice.nccl && choice.by_name) {
    choice.refusal = FailedPrecondition("--device-exchange nccl of rank {} cannot be had: {}",
                                        named - offers.begin(), why);
  }
  choice.why_hosts = std::move(why);
  return choice;
}

DeviceJoin::DeviceJoin(DeviceJoinOptions options) : options_(std::move(options)) {
  CHOIR_CHECK(options_.device != nullptr);
  offer_.wish = options_.wish;
  offer_.step_tokens = options_.step_tokens;
  offer_.slot_rows = options_.slot_rows;
  offer_.slot_output_bytes = options_.slot_output_bytes;
  offer_.micro_batch_rows = options_.micro_batch_rows;
  Put(options_.machine, &offer_.machine);
  cuda::DeviceInfo info;
  if (options_.device->info(options_.card, &info) == nullptr) Put(info.bus_id, &offer_.card);
  if (options_.wish == DeviceWish::kHost) {
    Put("it has --device-exchange host", &offer_.why_not);
  } else if (options_.nccl == nullptr || options_.nccl->open == nullptr) {
    Put("its CUDA module has no NCCL", &offer_.why_not);
  } else if (const char* error = options_.nccl->open(&offer_.version)) {
    Put(error, &offer_.why_not);
  }
}

RowPath DeviceJoin::rows() const {
  if (options_.wish == DeviceWish::kNccl) return RowPath::kDevice;
  return offer_.why_not[0] == '\0' ? RowPath::kEither : RowPath::kHost;
}

std::string DeviceJoin::path() const {
  std::lock_guard lock(mu_);
  return path_;
}

void DeviceJoin::SetPath(const std::string& path) {
  std::lock_guard lock(mu_);
  if (path != path_) CHOIR_LOG(info, "rows of experts go between ranks by {}", path);
  path_ = path;
}

Status DeviceJoin::Join(std::unique_ptr<Collectives>* hosts, const DeviceSlotSizes& slots) {
  std::vector<DeviceOffer> offers(static_cast<size_t>((*hosts)->size()));
  static_assert(sizeof(DeviceOffer) <= 4096);
  CHOIR_RETURN_IF_ERROR((*hosts)->AllGather(std::as_bytes(std::span(&offer_, 1)),
                                            std::as_writable_bytes(std::span(offers))));
  const DeviceChoice choice = ChooseDevicePath(offers);
  Status joined = choice.refusal;
  if (choice.nccl) joined = ConnectAll(choice, slots, hosts);
  if (!joined.ok()) {
    (*hosts)->Abort(joined);
    return (*hosts)->status();
  }
  DeviceCollectives* device = (*hosts)->device();
  if (device != nullptr) SetPath(device->device_name());
  if (!choice.nccl) SetPath("the hosts' memory: " + choice.why_hosts);
  return absl::OkStatus();
}

// Its environment, where it has to differ and nobody has said otherwise.
void DeviceJoin::TellNccl(const DeviceChoice& choice, int rank) const {
  if (choice.shared_card) {
    // NCCL tells ranks of one card from one another by the name of their host, which it takes once.
    CHOIR_LOG(warn, "ranks share a card, which is for tests: NCCL connects them by sockets");
    SetUnlessThere("NCCL_HOSTID", fmt::format("choir-rank-{}", rank));
    SetUnlessThere("NCCL_NET", "Socket");
    if (choice.one_machine) SetUnlessThere("NCCL_SOCKET_IFNAME", "lo");
  }
  if (!choice.one_machine && options_.address && std::getenv("NCCL_SOCKET_IFNAME") == nullptr) {
    const StatusOr<std::string> address = options_.address();
    const std::string interface = address.ok() ? InterfaceOf(*address) : "";
    if (!interface.empty()) SetUnlessThere("NCCL_SOCKET_IFNAME", "=" + interface);
  }
}

Status DeviceJoin::ConnectAll(const DeviceChoice& choice, const DeviceSlotSizes& slots,
                              std::unique_ptr<Collectives>* hosts) {
  TellNccl(choice, (*hosts)->rank());
  const Status connected =
      ConnectNccl({.device = options_.device,
                   .nccl = options_.nccl,
                   .card = options_.card,
                   .timeout = options_.timeout,
                   .connect_timeout = std::min(options_.timeout / 2, kConnectMax),
                   .slots = slots},
                  hosts);
  if (connected.ok() || !(*hosts)->status().ok()) return connected;
  if (choice.by_name) return Annotate(connected, "--device-exchange nccl");
  CHOIR_LOG(warn,
            "NCCL does not connect, rows go by the hosts' memory until the next epoch: {}; "
            "NCCL_DEBUG=INFO "
            "tells more, --device-exchange host leaves it alone",
            MessageOf(connected));
  SetPath("the hosts' memory: " + MessageOf(connected));
  return absl::OkStatus();
}

}  // namespace choir
