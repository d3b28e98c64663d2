#include "worker/model/weights/weight_store.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <tuple>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr int64_t kConvertGrain = int64_t{1} << 16;  // elements a thread takes at least
constexpr unsigned kThreadsMax = 8;
constexpr uint64_t kStepBytes = uint64_t{16} << 20;  // read between two progress calls

template <typename Ints>
std::string ShapeText(const Ints& shape) {
  std::string text = "[";
  for (const int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

TensorView View(void* data, DType dtype, std::initializer_list<int64_t> shape) {
  return TensorView(data, dtype, shape);
}

// Elements [begin, end); unaligned input is possible in a valid file.
void ConvertRange(const std::byte* from, DType from_type, std::byte* to, DType to_type,
                  int64_t begin, int64_t end) {
  const auto count = static_cast<size_t>(end - begin);
  from += static_cast<size_t>(begin) * SizeOf(from_type);
  to += static_cast<size_t>(begin) * SizeOf(to_type);
  if (from_type == to_type) {
    std::memcpy(to, from, count * SizeOf(to_type));
  } else if (from_type == DType::kBF16) {
    for (size_t i = 0; i < count; ++i) {
      bf16 bits = 0;
      std::memcpy(&bits, from + i * 2, 2);
      const float wide = ToF32(bits);
      std::memcpy(to + i * 4, &wide, 4);
    }
  } else {
    for (size_t i = 0; i < count; ++i) {
      float value = 0;
      std::memcpy(&value, from + i * 4, 4);
      const bf16 bits = ToBF16(value);
      std::memcpy(to + i * 2, &bits, 2);
    }
  }
}

}  // namespace

const StoredTensor* WeightStore::Check(const std::string& name,
                                       std::initializer_list<int64_t> shape) {
  if (!status_.ok()) return nullptr;
  const StoredTensor* tensor = files_->Find(name);
  if (tensor == nullptr) {
    status_ = InvalidArgument(
        "{}: tensor {}: is missing, config.json asks for {}; complete the model "
        "directory",
        files_->dir(), name, ShapeText(shape));
    return nullptr;
  }
  const TensorInfo& info = tensor->info;
  if (!std::equal(shape.begin(), shape.end(), info.shape.begin(), info.shape.end())) {
    status_ = InvalidArgument(
        "{}: tensor {}: shape: is {}, config.json asks for {}; config and weights "
        "are of different models",
        tensor->file->path(), name, ShapeText(info.shape), ShapeText(shape));
    return nullptr;
  }
  if (info.dtype != DType::kF32 && info.dtype != DType::kBF16) {
    status_ = InvalidArgument(
        "{}: tensor {}: dtype: {} is not supported (known: F32, BF16); use the "
        "bf16 or f32 weights of this model",
        tensor->file->path(), name, info.dtype_name);
    return nullptr;
  }
  return tensor;
}

void WeightStore::Fail(const std::string& name, const std::string& what) {
  if (!status_.ok()) return;
  const StoredTensor* tensor = files_->Find(name);
  const std::string& where = tensor == nullptr ? files_->dir() : tensor->file->path();
  status_ = InvalidArgument("{}: tensor {}: {}", where, name, what);
}

TensorView WeightStore::Keep(const StoredTensor& tensor, std::initializer_list<int64_t> shape,
                             DType dtype) {
  const bool aligned = tensor.info.offset % SizeOf(*tensor.info.dtype) == 0;
  if (aligned && dtype == *tensor.info.dtype) {
    if (mapped_.insert(&tensor).second) kept_bytes_ += static_cast<int64_t>(tensor.info.bytes);
    return TensorView(static_cast<const void*>(tensor.data()), dtype, shape);
  }
  const size_t bytes = tensor.info.bytes / SizeOf(*tensor.info.dtype) * SizeOf(dtype);
  StatusOr<HostBuffer> buffer = HostBuffer::Make(bytes);
  if (!buffer.ok()) {
    status_ = Annotate(buffer.status(), tensor.info.name);
    return {};
  }
  conversions_.push_back({&tensor, dtype, buffer->data()});
  kept_bytes_ += static_cast<int64_t>(bytes);
  buffers_.push_back(std::move(buffer).value());
  return View(buffers_.back().data(), dtype, shape);
}

TensorView WeightStore::Matrix(const std::string& name, std::initializer_list<int64_t> shape,
                               bool keep) {
  const StoredTensor* tensor = Check(name, shape);
  if (tensor == nullptr) return {};
  const DType dtype = matrix_dtype_.value_or(*tensor->info.dtype);
  if (keep) return Keep(*tensor, shape, dtype);
  // Another rank's expert: usable later without cost when the file's bytes can be used as they are.
  const bool aligned = tensor->info.offset % SizeOf(*tensor->info.dtype) == 0;
  if (!aligned || dtype != *tensor->info.dtype) return {};
  return TensorView(static_cast<const void*>(tensor->data()), dtype, shape);
}

TensorView WeightStore::MatrixAsIs(const std::string& name, std::initializer_list<int64_t> shape) {
  const StoredTensor* tensor = Check(name, shape);
  return tensor == nullptr ? TensorView() : Keep(*tensor, shape, *tensor->info.dtype);
}

TensorView WeightStore::Vector(const std::string& name, int64_t size) {
  return MatrixAsIs(name, {size});
}

TensorView WeightStore::VectorF32(const std::string& name, int64_t size) {
  const StoredTensor* tensor = Check(name, {size});
  return tensor == nullptr ? TensorView() : Keep(*tensor, {size}, DType::kF32);
}

bool WeightStore::SameContent(const std::string& a, const std::string& b) const {
  const StoredTensor *x = files_->Find(a), *y = files_->Find(b);
  CHOIR_CHECK(x != nullptr && y != nullptr);
  if (x->info.dtype_name != y->info.dtype_name || x->info.shape != y->info.shape) return false;
  const bool same = std::memcmp(x->data(), y->data(), x->info.bytes) == 0;
  if (same) y->file->Forget(y->info.offset, y->info.bytes);
  return same;
}

void WeightStore::Convert(const Conversion& c, ThreadTeam* team) const {
  const DType from = *c.from->info.dtype;
  const auto count = static_cast<int64_t>(c.from->info.bytes / SizeOf(from));
  team->For(count, kConvertGrain, [&](int64_t begin, int64_t end) {
    ConvertRange(c.from->data(), from, c.out, c.to, begin, end);
  });
  c.from->file->Forget(c.from->info.offset, c.from->info.bytes);
}

Status WeightStore::Load(const std::function<void(int64_t done, int64_t total)>& progress) {
  CHOIR_RETURN_IF_ERROR(status_);
  int64_t total = 0, done = 0;
  for (const StoredTensor* t : mapped_) total += static_cast<int64_t>(t->info.bytes);
  for (const Conversion& c : conversions_) total += static_cast<int64_t>(c.from->info.bytes);
  const auto advance = [&](uint64_t bytes) {
    done += static_cast<int64_t>(bytes);
    if (progress) progress(done, total);
  };
  // In file order, so that a disk reads forward.
  std::vector<const StoredTensor*> mapped(mapped_.begin(), mapped_.end());
  std::sort(mapped.begin(), mapped.end(), [](const StoredTensor* a, const StoredTensor* b) {
    return std::tie(a->file->path(), a->info.offset) < std::tie(b->file->path(), b->info.offset);
  });
  uint64_t small = 0;  // bytes not reported yet
  for (const StoredTensor* t : mapped) {
    for (uint64_t at = 0; at < t->info.bytes; at += kStepBytes) {
      const uint64_t n = std::min(kStepBytes, t->info.bytes - at);
      t->file->Prefault(t->info.offset + at, n);
      small += n;
      if (small >= kStepBytes) advance(std::exchange(small, 0));
    }
  }
  advance(small);
  if (conversions_.empty()) return {};
  ThreadTeam team(
      static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, kThreadsMax)));
  for (const Conversion& c : conversions_) {
    Convert(c, &team);
    advance(c.from->info.bytes);
  }
  return {};
}

}  // namespace choir
