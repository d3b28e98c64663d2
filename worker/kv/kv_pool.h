// KvPool: the memory of the KV cache, allocated once from a byte budget and carved up by layer and
// state kind. Block b of every layer belongs to the same sequence, so one block table serves all
// layers. On the device where the model's weights are; memory of the host is touched only where
// blocks are used. Owned by the engine; views stay valid as long as the pool lives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "worker/model/model.h"

namespace choir {

class KvPool {
 public:
  // InvalidArgument when `kv_bytes` holds no single block, or the layout is empty or negative.
  static StatusOr<std::unique_ptr<KvPool>> Make(const KvLayout& layout, uint64_t kv_bytes,
                                                int64_t block_tokens,
                                                Device* device = &HostDevice());
  // How many blocks that makes; errors are Make's.
  static StatusOr<int64_t> BlocksOf(const KvLayout& layout, uint64_t kv_bytes,
                                    int64_t block_tokens);

  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_tokens() const { return block_tokens_; }
  std::span<const LayerKvView> views() const { return views_; }

 private:
  KvPool() = default;
  Status Allocate(const KvLayout& layout, Device* device);

  int64_t num_blocks_ = 0;
  int64_t block_tokens_ = 0;
  DeviceBuffer memory_;
  std::vector<LayerKvView> views_;
};

}  // namespace choir
