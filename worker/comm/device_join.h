// Whether the ranks of an epoch exchange rows from device to device (NCCL) or through their hosts'
// memory, by --device-exchange. The ranks tell each other what they can, so all choose the same:
// `auto` takes NCCL where every rank can and has a card of its own, else the hosts; `nccl` takes it
// or refuses the epoch. One for the process; Join by one thread at a time, the rest by any.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "kernels/cuda/device_table.h"
#include "kernels/cuda/nccl_table.h"
#include "worker/comm/collectives.h"
#include "worker/comm/device_collectives.h"

namespace choir {

enum class DeviceWish : uint8_t { kAuto, kNccl, kHost };

// What a rank tells the others: plain bytes, strings end with 0.
struct DeviceOffer {
  DeviceWish wish = DeviceWish::kAuto;
  int32_t version = 0;  // of its NCCL
  int64_t step_tokens = 0, slot_rows = 0, micro_batch_rows = 0;
  uint64_t slot_output_bytes = 0;
  std::array<char, 256> why_not{};  // why NCCL cannot be used here; empty: it can
  std::array<char, 64> machine{};   // equal: the same machine, whatever containers it runs
  std::array<char, 32> card{};      // on its bus
};

struct DeviceChoice {
  bool nccl = false;
  bool by_name = false;      // of a rank at least: the hosts will not do
  bool shared_card = false;  // of two ranks at least
  bool one_machine = true;
  std::string why_hosts;  // of !nccl
  Status refusal;
};
// Pure: the same offers give the same choice on all ranks.
DeviceChoice ChooseDevicePath(std::span<const DeviceOffer> offers);

struct DeviceJoinOptions {
  DeviceWish wish = DeviceWish::kAuto;
  const cuda::DeviceTable* device = nullptr;
  const cuda::NcclTable* nccl = nullptr;
  int32_t card = 0;
  std::string machine;
  Duration timeout = std::chrono::seconds(30);  // of one transfer
  // Have to be those of the others.
  int64_t step_tokens = 0, slot_rows = 0, micro_batch_rows = 0;
  uint64_t slot_output_bytes = 0;
  // This machine's address for ranks of others; NCCL is told its interface, unless
  // NCCL_SOCKET_IFNAME is there.
  std::function<StatusOr<std::string>()> address;
};

class DeviceJoin {
 public:
  explicit DeviceJoin(DeviceJoinOptions options);

  // Which ways epochs of this rank may take, before anybody was asked: kHost where NCCL was not
  // wished for or cannot be opened.
  RowPath rows() const;
  // All ranks together: `*hosts` get NCCL beside them or stay as they are. An error is the death of
  // them. slots: NcclParts has it.
  Status Join(std::unique_ptr<Collectives>* hosts, const DeviceSlotSizes& slots = {});
  // Of the last Join: "NCCL 2.28.9", or "the hosts' memory: " and why; "" before.
  std::string path() const;

 private:
  void TellNccl(const DeviceChoice& choice, int rank) const;
  Status ConnectAll(const DeviceChoice& choice, const DeviceSlotSizes& slots,
                    std::unique_ptr<Collectives>* hosts);
  void SetPath(const std::string& path);

  const DeviceJoinOptions options_;
  DeviceOffer offer_;
  mutable std::mutex mu_;  // guards path_
  std::string path_;
};

}  // namespace choir
