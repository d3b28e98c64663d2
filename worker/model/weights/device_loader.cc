#include "worker/model/weights/device_loader.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "worker/model/weights/finite.h"

namespace choir {

Status DeviceLoader::Allocate() {
  if (lane_ != nullptr) return {};
  CHOIR_ASSIGN_OR_RETURN(lane_, device_->MakeLane());
  for (std::vector<Buffer>& set : buffers_) {
    set.resize(static_cast<size_t>(team_.size()));
    for (Buffer& buffer : set) {
      CHOIR_ASSIGN_OR_RETURN(buffer.memory, device_->AllocateHost(part_bytes_));
    }
  }
  return {};
}

void DeviceLoader::OpenFiles(const std::vector<LoadPart>& parts) {
  files_.clear();
  for (const LoadPart& part : parts) {
    if (part.tensor != nullptr) files_.try_emplace(part.tensor->file, part.tensor->file);
  }
}

// Where in the buffer `piece` begins, from `at` on: as it lies in its file, where that is of use.
size_t DeviceLoader::BeginOf(const LoadPart& piece, const Buffer& buffer, size_t at) const {
  if (piece.tensor == nullptr || piece.bytes < DirectFile::kDirectMin) return at;
  const uint64_t offset = piece.tensor->info.offset + piece.begin;
  if (offset % 8 != 0) return at;
  const uint64_t address = reinterpret_cast<uintptr_t>(buffer.memory.data()) + at;
  const size_t begin = at + (offset - address) % DirectFile::kAlign;
  return begin + DirectFile::kDirectMin <= part_bytes_ ? begin : at;
}

// Lays out what one round reads. False: nothing is left.
bool DeviceLoader::Pack(const std::vector<LoadPart>& parts, std::vector<Buffer>* buffers) {
  bool any = false;
  for (Buffer& buffer : *buffers) {
    buffer.pieces.clear();
    for (size_t at = 0; at < part_bytes_ && part_ < parts.size();) {
      LoadPart piece = parts[part_];
      const uint64_t left = piece.bytes - part_done_;
      piece.bytes = left;
      piece.begin += part_done_;
      piece.to += part_done_;
      at = BeginOf(piece, buffer, at);
      piece.bytes = std::min<uint64_t>(left, part_bytes_ - at);
      if (piece.memory != nullptr) piece.memory += part_done_;
      part_done_ += piece.bytes;
      if (piece.bytes == left) {
        ++part_;
        part_done_ = 0;
      }
      buffer.pieces.push_back({piece, at});
      at += (piece.bytes + 7) / 8 * 8;  // elements stay whole, and aligned
      any = true;
    }
  }
  return any;
}

Status DeviceLoader::Fill(const Buffer& buffer) const {
  for (const Piece& piece : buffer.pieces) {
    const LoadPart& from = piece.from;
    const std::span<std::byte> to(buffer.memory.data() + piece.at, from.bytes);
    if (from.tensor == nullptr) {
      std::memcpy(to.data(), from.memory, to.size());
      continue;
    }
    const TensorInfo& info = from.tensor->info;
    CHOIR_RETURN_IF_ERROR(files_.at(from.tensor->file).Read(info.offset + from.begin, to));
    if (!info.dtype || SizeOf(*info.dtype) == 0) continue;
    const auto size = static_cast<uint64_t>(SizeOf(*info.dtype));
    const int64_t bad =
        FindNotFinite(to.data(), *info.dtype, 0, static_cast<int64_t>(from.bytes / size));
    if (bad >= 0) {
      return NotFiniteError(*from.tensor, static_cast<int64_t>(from.begin / size) + bad);
    }
  }
  return {};
}

Status DeviceLoader::FillAll(const std::vector<Buffer>& buffers) {
  std::vector<Status> statuses(buffers.size());
  team_.Run([&](int thread) {
    const auto t = static_cast<size_t>(thread);
    statuses[t] = Fill(buffers[t]);
  });
  for (const Status& status : statuses) CHOIR_RETURN_IF_ERROR(status);
  return {};
}

Status DeviceLoader::Run(const std::vector<LoadPart>& parts,
                         const std::function<void(uint64_t bytes)>& advance) {
  CHOIR_RETURN_IF_ERROR(Allocate());
  OpenFiles(parts);
  part_ = 0;
  part_done_ = 0;
  for (size_t turn = 0; Pack(parts, &buffers_[turn]); turn = 1 - turn) {
    CHOIR_RETURN_IF_ERROR(FillAll(buffers_[turn]));
    CHOIR_RETURN_IF_ERROR(lane_->Wait());  // for the other buffers, which are filled next
    uint64_t bytes = 0;
    for (const Buffer& buffer : buffers_[turn]) {
      for (const Piece& piece : buffer.pieces) {
        lane_->Copy(piece.from.to, buffer.memory.data() + piece.at, piece.from.bytes);
        bytes += piece.from.bytes;
      }
    }
    advance(bytes);
  }
  return lane_->Wait();
}

}  // namespace choir
