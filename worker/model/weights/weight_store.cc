#include "worker/model/weights/weight_store.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <tuple>

#include "common/base/check.h"
#include "common/tensor/small_floats.h"
#include "kernels/ops/linear.h"
#include "worker/model/weights/finite.h"

namespace choir {
namespace {

constexpr int64_t kConvertGrain = int64_t{1} << 16;  // elements a thread takes at least
constexpr uint64_t kStepBytes = uint64_t{16} << 20;  // read between two progress calls

template <typename Ints>
std::string ShapeText(const Ints& shape) {
  std::string text = "[";
  for (const int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  return text + "]";
}

float ValueAt(const std::byte* from, DType type, int64_t i) {
  if (type == DType::kF32) {
    float value = 0;
    std::memcpy(&value, from + i * 4, 4);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, from + i * 2, 2);
  return type == DType::kBF16 ? ToF32(bits) : F16ToF32(bits);
}

void Put(float value, std::byte* to, DType type, int64_t i) {
  if (type == DType::kF32) {
    std::memcpy(to + i * 4, &value, 4);
  } else {
    const bf16 bits = ToBF16(value);
    std::memcpy(to + i * 2, &bits, 2);
  }
}

// Elements [begin, end); unaligned input is possible in a valid file.
template <DType kFrom, DType kTo>
void ConvertRange(const std::byte* from, std::byte* to, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) Put(ValueAt(from, kFrom, i), to, kTo, i);
}

void ConvertPlain(const std::byte* from, DType from_type, std::byte* to, DType to_type,
                  int64_t begin, int64_t end) {
  if (from_type == to_type) {
    std::memcpy(to + BytesOf(to_type, begin), from + BytesOf(to_type, begin),
                static_cast<size_t>(BytesOf(to_type, end - begin)));
    return;
  }
  const bool to_f32 = to_type == DType::kF32;
  CHOIR_CHECK(to_f32 || to_type == DType::kBF16);
  if (from_type == DType::kF16) {
    to_f32 ? ConvertRange<DType::kF16, DType::kF32>(from, to, begin, end)
           : ConvertRange<DType::kF16, DType::kBF16>(from, to, begin, end);
  } else if (to_f32) {
    ConvertRange<DType::kBF16, DType::kF32>(from, to, begin, end);
  } else {
    ConvertRange<DType::kF32, DType::kBF16>(from, to, begin, end);
  }
}

// Rows of f8 with scales.
void ConvertScaled(const TensorPart& part, const std::byte* from, std::byte* to, DType to_type,
                   int64_t row) {
  const int64_t blocks = (part.width + kF8Block - 1) / kF8Block;
  const float* scale = part.f8_scale + row / kF8Block * blocks;
  for (int64_t k = 0; k < part.width; ++k) {
    const int64_t i = row * part.width + k;
    Put(F8ToF32(static_cast<uint8_t>(from[i])) * scale[k / kF8Block], to, to_type, i);
  }
}

}  // namespace

const StoredTensor* WeightStore::Check(const std::string& name,
                                       std::initializer_list<int64_t> shape,
                                       std::initializer_list<DType> dtypes) {
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
  if (!info.dtype || std::find(dtypes.begin(), dtypes.end(), *info.dtype) == dtypes.end()) {
    std::string known;
    for (const DType dtype : dtypes)
      known += (known.empty() ? "" : ", ") + std::string(NameOf(dtype));
    status_ = InvalidArgument(
        "{}: tensor {}: dtype: {} is not supported here (known: {}); use the weights of this model "
        "in one of these",
        tensor->file->path(), name, info.dtype_name, known);
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

TensorView WeightStore::Keep(const TensorPart& part, DType dtype, bool keep) {
  const TensorInfo& info = part.tensor->info;
  const auto begin = static_cast<uint64_t>(part.first_byte);
  const bool aligned = (info.offset + begin) % std::max<size_t>(SizeOf(part.dtype), 1) == 0;
  if (aligned && dtype == part.dtype) {
    const auto bytes = static_cast<uint64_t>(part.bytes());
    if (keep && mapped_.insert({part.tensor, begin, bytes}).second) kept_bytes_ += part.bytes();
    return TensorView(static_cast<const void*>(part.tensor->data() + begin), dtype,
                      {part.rows, part.width});
  }
  if (!keep) return {};
  const int64_t bytes = BytesOf(dtype, part.rows * part.width);
  StatusOr<HostBuffer> buffer = HostBuffer::Make(static_cast<size_t>(bytes));
  if (!buffer.ok()) {
    status_ = Annotate(buffer.status(), info.name);
    return {};
  }
  conversions_.push_back({part, dtype, buffer->data()});
  kept_bytes_ += bytes;
  buffers_.push_back(std::move(buffer).value());
  return TensorView(static_cast<void*>(buffers_.back().data()), dtype, {part.rows, part.width});
}

namespace {

// All of a tensor; `shape` has one or two dimensions.
TensorPart Whole(const StoredTensor& tensor, std::initializer_list<int64_t> shape) {
  const int64_t rows = shape.size() == 1 ? 1 : *shape.begin();
  return {.tensor = &tensor,
          .dtype = *tensor.info.dtype,
          .rows = rows,
          .width = shape.begin()[shape.size() - 1]};
}

TensorView Shaped(const TensorView& view, std::initializer_list<int64_t> shape) {
  return view.empty() ? view : TensorView(view.raw(), view.dtype(), shape);
}

}  // namespace

TensorView WeightStore::Matrix(const std::string& name, std::initializer_list<int64_t> shape,
                               bool keep) {
  const StoredTensor* tensor = Check(name, shape, {DType::kF32, DType::kBF16, DType::kF16});
  if (tensor == nullptr) return {};
  return Keep(Whole(*tensor, shape), MatrixDType(*tensor->info.dtype), keep);
}

TensorView WeightStore::MatrixAsIs(const std::string& name, std::initializer_list<int64_t> shape) {
  const StoredTensor* tensor = Check(name, shape, {DType::kF32, DType::kBF16, DType::kF16});
  return tensor == nullptr ? TensorView() : Keep(Whole(*tensor, shape), *tensor->info.dtype);
}

TensorView WeightStore::Vector(const std::string& name, int64_t size) {
  const StoredTensor* tensor = Check(name, {size}, {DType::kF32, DType::kBF16, DType::kF16});
  if (tensor == nullptr) return {};
  const DType dtype = *tensor->info.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  return Shaped(Keep(Whole(*tensor, {size}), dtype), {size});
}

TensorView WeightStore::VectorF32(const std::string& name, int64_t size) {
  const StoredTensor* tensor = Check(name, {size}, {DType::kF32, DType::kBF16, DType::kF16});
  if (tensor == nullptr) return {};
  return Shaped(Keep(Whole(*tensor, {size}), DType::kF32), {size});
}

bool WeightStore::SameContent(const std::string& a, const std::string& b) const {
  const StoredTensor *x = files_->Find(a), *y = files_->Find(b);
  CHOIR_CHECK(x != nullptr && y != nullptr);
  if (x->info.dtype_name != y->info.dtype_name || x->info.shape != y->info.shape) return false;
  const bool same = std::memcmp(x->data(), y->data(), x->info.bytes) == 0;
  if (same) y->file->Forget(y->info.offset, y->info.bytes);
  return same;
}

void WeightStore::ConvertOne(const Conversion& c, ThreadTeam* team) const {
  const TensorPart& part = c.from;
  const std::byte* from = part.tensor->data() + part.first_byte;
  if (part.f8_scale != nullptr) {
    team->For(part.rows, kConvertGrain / part.width + 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) ConvertScaled(part, from, c.out, c.to, row);
    });
  } else {
    team->For(part.rows * part.width, kConvertGrain, [&](int64_t begin, int64_t end) {
      ConvertPlain(from, part.dtype, c.out, c.to, begin, end);
    });
  }
  part.tensor->file->Forget(part.tensor->info.offset + static_cast<uint64_t>(part.first_byte),
                            static_cast<uint64_t>(part.bytes()));
}

Status WeightStore::CheckFinite(const StoredTensor& tensor, uint64_t begin, uint64_t bytes,
                                ThreadTeam* team) const {
  if (!tensor.info.dtype) return {};
  const DType dtype = *tensor.info.dtype;
  const auto first = static_cast<int64_t>(begin / SizeOf(dtype));
  std::atomic<int64_t> found{-1};
  team->For(static_cast<int64_t>(bytes / SizeOf(dtype)), kConvertGrain,
            [&](int64_t from, int64_t to) {
              const int64_t at = FindNotFinite(tensor.data(), dtype, first + from, first + to);
              if (at >= 0) found.store(at, std::memory_order_relaxed);
            });
  if (found.load() < 0) return {};
  return NotFiniteError(tensor, found.load());
}

int64_t WeightStore::conversion_bytes() const {
  int64_t bytes = 0;
  for (const Conversion& c : conversions_) bytes += c.from.bytes();
  return bytes;
}

int64_t WeightStore::load_bytes() const {
  int64_t bytes = conversion_bytes();
  for (const Range& range : mapped_) bytes += static_cast<int64_t>(std::get<2>(range));
  return bytes;
}

std::map<const std::byte*, WeightStore::Place> WeightStore::MappedPlaces() const {
  std::map<const std::byte*, Place> places;
  for (const auto& [tensor, begin, bytes] : mapped_) {
    places[tensor->data() + begin] = {tensor, begin, bytes};
  }
  return places;
}

Status WeightStore::Load(const std::function<void(int64_t done, int64_t total)>& progress,
                         int threads) {
  CHOIR_RETURN_IF_ERROR(status_);
  const int64_t total = load_bytes();
  int64_t done = 0;
  const auto advance = [&](uint64_t bytes) {
    done += static_cast<int64_t>(bytes);
    if (progress) progress(done, total);
  };
  CHOIR_RETURN_IF_ERROR(ReadMapped(advance, threads));
  return Convert(advance, threads);
}

Status WeightStore::ReadMapped(const std::function<void(uint64_t bytes)>& advance,
                               int threads) const {
  // In file order, so that a disk reads forward.
  std::vector<Range> mapped(mapped_.begin(), mapped_.end());
  const auto place = [](const Range& r) {
    const StoredTensor& t = *std::get<0>(r);
    return std::tuple(t.file->path(), t.info.offset + std::get<1>(r));
  };
  std::sort(mapped.begin(), mapped.end(),
            [&](const Range& a, const Range& b) { return place(a) < place(b); });
  ThreadTeam team(threads);
  uint64_t small = 0;  // bytes not reported yet
  for (const auto& [tensor, begin, bytes] : mapped) {
    for (uint64_t at = 0; at < bytes; at += kStepBytes) {
      const uint64_t n = std::min(kStepBytes, bytes - at);
      tensor->file->Prefault(tensor->info.offset + begin + at, n);
      CHOIR_RETURN_IF_ERROR(CheckFinite(*tensor, begin + at, n, &team));
      small += n;
      if (small >= kStepBytes) advance(std::exchange(small, 0));
    }
  }
  advance(small);
  return {};
}

Status WeightStore::Convert(const std::function<void(uint64_t bytes)>& advance, int threads) const {
  CHOIR_RETURN_IF_ERROR(status_);
  if (conversions_.empty()) return {};
  ThreadTeam team(threads);
  for (const Conversion& c : conversions_) {
    CHOIR_RETURN_IF_ERROR(CheckFinite(*c.from.tensor, static_cast<uint64_t>(c.from.first_byte),
                                      static_cast<uint64_t>(c.from.bytes()), &team));
    ConvertOne(c, &team);
    advance(static_cast<uint64_t>(c.from.bytes()));
  }
  return {};
}

}  // namespace choir
