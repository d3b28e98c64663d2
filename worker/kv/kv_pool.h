// KvPool: the memory of the KV cache, allocated once from a byte budget and carved up by layer and
// state kind. Block b of every layer belongs to the same sequence, so one block table serves all
// layers. The memory is reserved, and touched only where blocks are used. Owned by the engine;
// views stay valid as long as the pool lives.
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
                                                int64_t block_tokens);
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  int64_t num_blocks() const { return num_blocks_; }
  int64_t block_tokens() const { return block_tokens_; }
  std::span<const LayerKvView> views() const { return views_; }

 private:
  KvPool() = default;
  Status Map(const KvLayout& layout);

  int64_t num_blocks_ = 0;
  int64_t block_tokens_ = 0;
  std::byte* memory_ = nullptr;
  size_t memory_bytes_ = 0;
  std::vector<LayerKvView> views_;
};

}  // namespace choir
