#include "worker/kv/kv_pool.h"

#include <algorithm>
#include <limits>

namespace choir {
namespace {

constexpr size_t kAlign = 4096;  // each layer's state begins on a page of its own
constexpr int64_t kBlockTokensMax = 4096;

size_t RoundUp(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

Status CheckLayout(const KvLayout& layout) {
  if (layout.layers.empty()) return InvalidArgument("kv: the model has no layers");
  for (const LayerKv& layer : layout.layers) {
    if (layer.k_width <= 0 || layer.v_width < 0) {
      return InvalidArgument("kv: a layer wants widths {} and {}", layer.k_width, layer.v_width);
    }
  }
  if (layout.dtype != DType::kF32 && layout.dtype != DType::kBF16) {
    return InvalidArgument("kv: dtype {} is not supported; f32 and bf16 are", NameOf(layout.dtype));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<int64_t> KvPool::BlocksOf(const KvLayout& layout, uint64_t kv_bytes,
                                   int64_t block_tokens) {
  CHOIR_RETURN_IF_ERROR(CheckLayout(layout));
  if (block_tokens < 1 || block_tokens > kBlockTokensMax) {
    return InvalidArgument("kv: block_tokens {} is not in 1..{}", block_tokens, kBlockTokensMax);
  }
  const uint64_t block_bytes = static_cast<uint64_t>(layout.BytesPerToken() * block_tokens);
  const uint64_t blocks = kv_bytes / block_bytes;
  if (blocks == 0) {
    return InvalidArgument("kv_bytes {} is less than one block of {} tokens, which takes {} bytes",
                           kv_bytes, block_tokens, block_bytes);
  }
  return static_cast<int64_t>(
      std::min<uint64_t>(blocks, static_cast<uint64_t>(std::numeric_limits<int32_t>::max())));
}

StatusOr<std::unique_ptr<KvPool>> KvPool::Make(const KvLayout& layout, uint64_t kv_bytes,
                                               int64_t block_tokens, Device* device) {
  std::unique_ptr<KvPool> pool(new KvPool);
  pool->block_tokens_ = block_tokens;
  CHOIR_ASSIGN_OR_RETURN(pool->num_blocks_, BlocksOf(layout, kv_bytes, block_tokens));
  CHOIR_RETURN_IF_ERROR(pool->Allocate(layout, device));
  return pool;
}

Status KvPool::Allocate(const KvLayout& layout, Device* device) {
  const size_t rows = static_cast<size_t>(num_blocks_ * block_tokens_) * SizeOf(layout.dtype);
  size_t bytes = 0;
  for (const LayerKv& layer : layout.layers) {
    bytes += RoundUp(rows * static_cast<size_t>(layer.k_width)) +
             RoundUp(rows * static_cast<size_t>(layer.v_width));
  }
  StatusOr<DeviceBuffer> memory = device->Allocate(bytes);
  if (!memory.ok()) return Annotate(memory.status(), "kv: lower kv_bytes");
  memory_ = std::move(memory).value();
  std::byte* next = memory_.data();
  const auto take = [&](int64_t width) {
    if (width == 0) return KvView{};
    KvView view{TensorView(next, layout.dtype, {num_blocks_, block_tokens_, width})};
    next += RoundUp(rows * static_cast<size_t>(width));
    return view;
  };
  for (const LayerKv& layer : layout.layers) {
    LayerKvView view;
    view.k = take(layer.k_width);
    view.v = take(layer.v_width);
    views_.push_back(view);
  }
  return absl::OkStatus();
}

}  // namespace choir
