#include "worker/model/weights/finite.h"

#include <algorithm>
#include <cstring>

namespace choir {
namespace {

// The bits of a number that are all set when it is infinite or no number at all.
template <typename Bits>
int64_t FindNotFinite(const std::byte* data, Bits exponent, int64_t begin, int64_t end) {
  constexpr int64_t kBlock = 4096;  // long enough to vectorize, short enough to name the element
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t stop = std::min(end, at + kBlock);
    bool bad = false;
    for (int64_t i = at; i < stop; ++i) {
      Bits bits = 0;
      std::memcpy(&bits, data + static_cast<size_t>(i) * sizeof(Bits), sizeof(Bits));
      bad |= (bits & exponent) == exponent;
    }
    if (!bad) continue;
    for (int64_t i = at; i < stop; ++i) {
      Bits bits = 0;
      std::memcpy(&bits, data + static_cast<size_t>(i) * sizeof(Bits), sizeof(Bits));
      if ((bits & exponent) == exponent) return i;
    }
  }
  return -1;
}

}  // namespace

int64_t FindNotFinite(const std::byte* data, DType dtype, int64_t begin, int64_t end) {
  switch (dtype) {
    case DType::kF32:
      return FindNotFinite<uint32_t>(data, 0x7f800000u, begin, end);
    case DType::kBF16:
      return FindNotFinite<uint16_t>(data, 0x7f80, begin, end);
    case DType::kF16:
      return FindNotFinite<uint16_t>(data, 0x7c00, begin, end);
    case DType::kF8E4M3:  // has no infinity, and one NaN of each sign
      return FindNotFinite<uint8_t>(data, 0x7f, begin, end);
    default:
      return -1;
  }
}

Status NotFiniteError(const StoredTensor& tensor, int64_t element) {
  return InvalidArgument(
      "{}: tensor {}: data: element {} is NaN or infinite; the file is damaged, fetch it again",
      tensor.file->path(), tensor.info.name, element);
}

}  // namespace choir
