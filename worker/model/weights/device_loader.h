// Fills memory of a device from files and from memory of the host: threads read parts into pinned
// buffers and check that they are numbers, while the buffers before them are on their way. Large
// parts lie in their buffers as in their files, modulo a page, so that they can come straight from
// the disk. Nothing that is read stays in memory. Copies go in a lane of the loader's: one thread
// at a time, which has called Device::Use, while another computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "common/base/status.h"
#include "common/runtime/thread_team.h"
#include "worker/device/device.h"
#include "worker/model/files/direct_file.h"
#include "worker/model/files/weight_files.h"

namespace choir {

struct LoadPart {
  const StoredTensor* tensor = nullptr;  // from its file; null: from `memory`
  uint64_t begin = 0;                    // inside the tensor
  const std::byte* memory = nullptr;
  uint64_t bytes = 0;
  std::byte* to = nullptr;  // device
};

class DeviceLoader {
 public:
  // part_bytes: of a pinned buffer, there are two a thread; a multiple of 8.
  DeviceLoader(Device* device, int threads, size_t part_bytes = size_t{8} << 20)
      : device_(device), part_bytes_(part_bytes), team_(threads) {}
  DeviceLoader(const DeviceLoader&) = delete;
  DeviceLoader& operator=(const DeviceLoader&) = delete;

  // What it needs of the device, for those who may not ask for it later; by the device's thread.
  Status Allocate();

  // Reads `parts` in their order; advance(bytes) now and then. Returns when all are there.
  // InvalidArgument: not a finite number, named; Unavailable: the file or the device.
  Status Run(const std::vector<LoadPart>& parts,
             const std::function<void(uint64_t bytes)>& advance);

 private:
  struct Piece {  // of a part, in a buffer
    LoadPart from;
    size_t at = 0;
  };
  struct Buffer {
    DeviceBuffer memory;
    std::vector<Piece> pieces;
  };

  void OpenFiles(const std::vector<LoadPart>& parts);
  size_t BeginOf(const LoadPart& piece, const Buffer& buffer, size_t at) const;
  bool Pack(const std::vector<LoadPart>& parts, std::vector<Buffer>* buffers);
  Status Fill(const Buffer& buffer) const;
  Status FillAll(const std::vector<Buffer>& buffers);

  Device* const device_;
  const size_t part_bytes_;
  ThreadTeam team_;
  std::map<const MappedFile*, DirectFile> files_;
  std::vector<Buffer> buffers_[2];  // one a thread; the two take turns
  size_t part_ = 0;                 // what Pack takes next
  uint64_t part_done_ = 0;          // bytes of it that were taken
  // Ends first: after an error copies out of the buffers may still be under way.
  std::unique_ptr<DeviceLane> lane_;
};

}  // namespace choir
