#include "tools/model/gguf.h"

#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr int64_t kBlock = 32;  // elements of a quantized block
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxAlignment = 1 << 16;

enum ValueKind : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// Elements that are stored together.
int64_t BlockOf(GgufType type) {
  return type == GgufType::kQ4_1 || type == GgufType::kQ8_0 ? kBlock : 1;
}

// REQUIRES: whole blocks.
int64_t BytesOf(GgufType type, int64_t elements) {
  switch (type) {
    case GgufType::kF32:
      return elements * 4;
    case GgufType::kF16:
      return elements * 2;
    case GgufType::kQ4_1:  // f16 scale, f16 minimum, 16 bytes of nibbles
      return elements / kBlock * 20;
    case GgufType::kQ8_0:  // f16 scale, 32 x i8
      return elements / kBlock * 34;
  }
  CHOIR_CHECK(false);
}

bool Known(uint32_t type) { return type == 0 || type == 1 || type == 3 || type == 8; }

float HalfToFloat(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 31u;
  const uint32_t fraction = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float small = static_cast<float>(fraction) * 0x1p-24f;  // zero and subnormals, exact
  return sign != 0 ? -small : small;
}

template <typename T>
T Load(const std::byte* p) {
  static_assert(std::endian::native == std::endian::little);
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

}  // namespace

int64_t GgufTensor::num_elements() const {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

// A cursor over the header. After the first failure every read gives nothing and status() says why.
class GgufParser {
 public:
  explicit GgufParser(std::span<const std::byte> file) : file_(file) {}

  StatusOr<Gguf> Parse() {
    Gguf out;
    CHOIR_RETURN_IF_ERROR(ReadHeader());
    for (uint64_t i = 0; i < num_keys_; ++i) CHOIR_RETURN_IF_ERROR(ReadKey(&out));
    std::vector<Entry> entries(num_tensors_);
    for (Entry& entry : entries) CHOIR_RETURN_IF_ERROR(ReadTensorInfo(&entry));
    uint64_t alignment = 32;
    if (out.metadata_.count("general.alignment") != 0) {
      CHOIR_ASSIGN_OR_RETURN(const int64_t given, out.Integer("general.alignment"));
      if (given < 1 || static_cast<uint64_t>(given) > kMaxAlignment ||
          !std::has_single_bit(static_cast<uint64_t>(given))) {
        return InvalidArgument("general.alignment is {}, must be a power of two up to {}", given,
                               kMaxAlignment);
      }
      alignment = static_cast<uint64_t>(given);
    }
    const uint64_t base = (position_ + alignment - 1) / alignment * alignment;
    for (Entry& entry : entries) CHOIR_RETURN_IF_ERROR(Place(std::move(entry), base, &out));
    return out;
  }

 private:
  struct Entry {
    std::string name;
    GgufTensor tensor;
    uint64_t offset = 0;
  };

  uint64_t left() const { return file_.size() - position_; }

  Status Truncated() const {
    return InvalidArgument("the GGUF file is truncated: {} bytes end within its header",
                           file_.size());
  }

  template <typename T>
  Status Read(T* value) {
    if (left() < sizeof(T)) return Truncated();
    *value = Load<T>(file_.data() + position_);
    position_ += sizeof(T);
    return absl::OkStatus();
  }

  Status Read(std::string* text) {
    uint64_t length = 0;
    CHOIR_RETURN_IF_ERROR(Read(&length));
    if (length > left()) return Truncated();
    text->assign(reinterpret_cast<const char*>(file_.data() + position_), length);
    position_ += length;
    return absl::OkStatus();
  }

  Status ReadHeader() {
    if (file_.size() < 4 || std::memcmp(file_.data(), "GGUF", 4) != 0) {
      return InvalidArgument("not a GGUF file: it does not start with 'GGUF'");
    }
    position_ = 4;
    uint32_t version = 0;
    CHOIR_RETURN_IF_ERROR(Read(&version));
    if (version != 2 && version != 3) {
      return InvalidArgument("GGUF version {} is not supported, only 2 and 3", version);
    }
    CHOIR_RETURN_IF_ERROR(Read(&num_tensors_));
    CHOIR_RETURN_IF_ERROR(Read(&num_keys_));
    if (num_tensors_ > Gguf::kMaxEntries || num_keys_ > Gguf::kMaxEntries) {
      return InvalidArgument("GGUF header counts {} tensors and {} keys, at most {} are allowed",
                             num_tensors_, num_keys_, Gguf::kMaxEntries);
    }
    return absl::OkStatus();
  }

  Status ReadKey(Gguf* out) {
    std::string key;
    uint32_t kind = 0;
    CHOIR_RETURN_IF_ERROR(Read(&key));
    CHOIR_RETURN_IF_ERROR(Read(&kind));
    Gguf::Value value;
    CHOIR_RETURN_IF_ERROR(
        Annotate(kind == kArray ? ReadArray(&value) : ReadScalar(kind, &value), key));
    if (!out->metadata_.emplace(key, std::move(value)).second) {
      return InvalidArgument("GGUF key {} occurs twice", key);
    }
    return absl::OkStatus();
  }

  template <typename T, typename To>
  Status ReadAs(To* out) {
    T value{};
    CHOIR_RETURN_IF_ERROR(Read(&value));
    if constexpr (std::is_same_v<T, uint64_t>) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return InvalidArgument("value {} is out of range", value);
      }
    }
    *out = static_cast<To>(value);
    return absl::OkStatus();
  }

  Status ReadInteger(uint32_t kind, int64_t* out) {
    switch (kind) {
      case kU8:
        return ReadAs<uint8_t>(out);
      case kI8:
        return ReadAs<int8_t>(out);
      case kU16:
        return ReadAs<uint16_t>(out);
      case kI16:
        return ReadAs<int16_t>(out);
      case kU32:
        return ReadAs<uint32_t>(out);
      case kI32:
        return ReadAs<int32_t>(out);
      case kU64:
        return ReadAs<uint64_t>(out);
      case kI64:
        return ReadAs<int64_t>(out);
      default:
        return InvalidArgument("GGUF value type {} is not supported here", kind);
    }
  }

  Status ReadFloat(uint32_t kind, double* out) {
    return kind == kF32 ? ReadAs<float>(out) : ReadAs<double>(out);
  }

  Status ReadScalar(uint32_t kind, Gguf::Value* out) {
    if (kind == kString) return Read(&out->emplace<std::string>());
    if (kind == kF32 || kind == kF64) return ReadFloat(kind, &out->emplace<double>());
    if (kind == kBool) return ReadAs<uint8_t>(&out->emplace<bool>());
    return ReadInteger(kind, &out->emplace<int64_t>());
  }

  Status ReadArray(Gguf::Value* out) {
    uint32_t kind = 0;
    uint64_t count = 0;
    CHOIR_RETURN_IF_ERROR(Read(&kind));
    CHOIR_RETURN_IF_ERROR(Read(&count));
    // Every element takes at least a byte (a string eight), so a count beyond the file is a lie;
    // the check keeps it from reserving memory.
    const uint64_t least = kind == kString ? 8 : 1;
    if (count > Gguf::kMaxArray || count > left() / least) {
      return InvalidArgument("array of {} elements does not fit the file", count);
    }
    if (kind == kString) {
      auto& strings = out->emplace<std::vector<std::string>>(count);
      for (std::string& s : strings) CHOIR_RETURN_IF_ERROR(Read(&s));
      return absl::OkStatus();
    }
    if (kind == kF32 || kind == kF64) {
      auto& numbers = out->emplace<std::vector<double>>(count);
      for (double& n : numbers) CHOIR_RETURN_IF_ERROR(ReadFloat(kind, &n));
      return absl::OkStatus();
    }
    auto& integers = out->emplace<std::vector<int64_t>>(count);
    const uint32_t element = kind == kBool ? static_cast<uint32_t>(kU8) : kind;
    for (int64_t& i : integers) CHOIR_RETURN_IF_ERROR(ReadInteger(element, &i));
    return absl::OkStatus();
  }

  Status ReadTensorInfo(Entry* entry) {
    uint32_t dimensions = 0;
    CHOIR_RETURN_IF_ERROR(Read(&entry->name));
    CHOIR_RETURN_IF_ERROR(Read(&dimensions));
    if (dimensions < 1 || dimensions > kMaxDimensions) {
      return InvalidArgument("tensor {} has {} dimensions, must be 1..{}", entry->name, dimensions,
                             kMaxDimensions);
    }
    entry->tensor.shape.resize(dimensions);
    int64_t elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      uint64_t size = 0;
      CHOIR_RETURN_IF_ERROR(Read(&size));
      // An element takes more than half a byte, so this also keeps the product from overflowing.
      if (size == 0 || size > 2 * file_.size() / static_cast<uint64_t>(elements)) {
        return InvalidArgument("tensor {}: dimension {} of size {} does not fit the file",
                               entry->name, i, size);
      }
      elements *= static_cast<int64_t>(size);
      entry->tensor.shape[dimensions - 1 - i] = static_cast<int64_t>(size);  // fastest comes first
    }
    uint32_t type = 0;
    CHOIR_RETURN_IF_ERROR(Read(&type));
    CHOIR_RETURN_IF_ERROR(Read(&entry->offset));
    if (!Known(type)) {
      return InvalidArgument("tensor {}: GGUF type {} is not supported (F32, F16, Q4_1, Q8_0 are)",
                             entry->name, type);
    }
    entry->tensor.type = static_cast<GgufType>(type);
    return absl::OkStatus();
  }

  Status Place(Entry entry, uint64_t base, Gguf* out) const {
    if (entry.tensor.shape.back() % BlockOf(entry.tensor.type) != 0) {
      return InvalidArgument("tensor {}: its rows of {} are not whole blocks of {}", entry.name,
                             entry.tensor.shape.back(), kBlock);
    }
    const int64_t bytes = BytesOf(entry.tensor.type, entry.tensor.num_elements());
    if (base > file_.size() || entry.offset > file_.size() - base ||
        static_cast<uint64_t>(bytes) > file_.size() - base - entry.offset) {
      return InvalidArgument(
          "the GGUF file is truncated: tensor {} needs {} bytes at {}, the file has {}", entry.name,
          bytes, base + entry.offset, file_.size());
    }
    entry.tensor.data = file_.subspan(base + entry.offset, static_cast<size_t>(bytes));
    const std::string name = entry.name;
    if (!out->tensors_.emplace(name, std::move(entry.tensor)).second) {
      return InvalidArgument("GGUF tensor {} occurs twice", name);
    }
    return absl::OkStatus();
  }

  std::span<const std::byte> file_;
  uint64_t position_ = 0;
  uint64_t num_tensors_ = 0;
  uint64_t num_keys_ = 0;
};

StatusOr<Gguf> Gguf::Parse(std::span<const std::byte> file) { return GgufParser(file).Parse(); }

StatusOr<const Gguf::Value*> Gguf::Find(const std::string& key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return NotFound("the GGUF file has no key {}", key);
  return &it->second;
}

namespace {
template <typename T, typename V>
StatusOr<const T*> As(const V& found, const std::string& key, const char* kind) {
  if (!found.ok()) return found.status();
  const T* value = std::get_if<T>(*found);
  if (value == nullptr) return InvalidArgument("GGUF key {} is not {}", key, kind);
  return value;
}
}  // namespace

StatusOr<std::string> Gguf::String(const std::string& key) const {
  CHOIR_ASSIGN_OR_RETURN(const auto* value, As<std::string>(Find(key), key, "a string"));
  return *value;
}
StatusOr<int64_t> Gguf::Integer(const std::string& key) const {
  CHOIR_ASSIGN_OR_RETURN(const auto* value, As<int64_t>(Find(key), key, "an integer"));
  return *value;
}
StatusOr<double> Gguf::Number(const std::string& key) const {
  CHOIR_ASSIGN_OR_RETURN(const auto* value, As<double>(Find(key), key, "a number"));
  return *value;
}
StatusOr<const std::vector<std::string>*> Gguf::Strings(const std::string& key) const {
  return As<std::vector<std::string>>(Find(key), key, "a list of strings");
}
StatusOr<const std::vector<int64_t>*> Gguf::Integers(const std::string& key) const {
  return As<std::vector<int64_t>>(Find(key), key, "a list of integers");
}

StatusOr<const GgufTensor*> Gguf::Tensor(const std::string& name,
                                         const std::vector<int64_t>& shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) return NotFound("the GGUF file has no tensor {}", name);
  if (it->second.shape != shape) {
    return InvalidArgument("GGUF tensor {}: shape [{}], expected [{}]", name,
                           fmt::join(it->second.shape, ", "), fmt::join(shape, ", "));
  }
  return &it->second;
}

std::vector<float> Dequantize(const GgufTensor& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.num_elements()));
  const std::byte* p = tensor.data.data();
  switch (tensor.type) {
    case GgufType::kF32:
      std::memcpy(out.data(), p, tensor.data.size());
      return out;
    case GgufType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = HalfToFloat(Load<uint16_t>(p + 2 * i));
      return out;
    case GgufType::kQ8_0:
      for (size_t i = 0; i < out.size(); i += kBlock, p += 34) {
        const float scale = HalfToFloat(Load<uint16_t>(p));
        for (size_t j = 0; j < kBlock; ++j) {
          out[i + j] = scale * static_cast<float>(Load<int8_t>(p + 2 + j));
        }
      }
      return out;
    case GgufType::kQ4_1:  // low nibbles are elements 0..15, high ones 16..31
      for (size_t i = 0; i < out.size(); i += kBlock, p += 20) {
        const float scale = HalfToFloat(Load<uint16_t>(p));
        const float minimum = HalfToFloat(Load<uint16_t>(p + 2));
        for (size_t j = 0; j < kBlock / 2; ++j) {
          const auto byte = Load<uint8_t>(p + 4 + j);
          out[i + j] = scale * static_cast<float>(byte & 15) + minimum;
          out[i + j + kBlock / 2] = scale * static_cast<float>(byte >> 4) + minimum;
        }
      }
      return out;
  }
  CHOIR_CHECK(false);
}

}  // namespace choir
