// Reads GGUF files, versions 2 and 3, as far as the demo model needs them: metadata, and tensors of
// types F32, F16, Q4_1 and Q8_0. Format: github.com/ggml-org/ggml, docs/gguf.md. Every count,
// length and offset is checked against the file before use; errors are InvalidArgument and say what
// is wrong where. A Gguf points into the bytes it was parsed from, which must outlive it. Read-only
// after Parse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "common/base/status.h"

namespace choir {

enum class GgufType : uint32_t { kF32 = 0, kF16 = 1, kQ4_1 = 3, kQ8_0 = 8 };

struct GgufTensor {
  std::vector<int64_t> shape;  // slowest axis first
  GgufType type = GgufType::kF32;
  std::span<const std::byte> data;

  int64_t num_elements() const;
};

class Gguf {
 public:
  static constexpr uint64_t kMaxEntries = 1 << 16;  // metadata keys, and tensors
  static constexpr uint64_t kMaxArray = 1 << 24;    // elements of a metadata array

  static StatusOr<Gguf> Parse(std::span<const std::byte> file);

  // NotFound when the key is absent, InvalidArgument when it holds another kind of value.
  StatusOr<std::string> String(const std::string& key) const;
  StatusOr<int64_t> Integer(const std::string& key) const;
  StatusOr<double> Number(const std::string& key) const;
  StatusOr<const std::vector<std::string>*> Strings(const std::string& key) const;
  StatusOr<const std::vector<int64_t>*> Integers(const std::string& key) const;

  bool HasTensor(const std::string& name) const { return tensors_.count(name) != 0; }
  // InvalidArgument when the shape is another.
  StatusOr<const GgufTensor*> Tensor(const std::string& name,
                                     const std::vector<int64_t>& shape) const;

 private:
  friend class GgufParser;
  using Value = std::variant<int64_t, double, bool, std::string, std::vector<std::string>,
                             std::vector<int64_t>, std::vector<double>>;

  StatusOr<const Value*> Find(const std::string& key) const;

  std::map<std::string, Value> metadata_;
  std::unordered_map<std::string, GgufTensor> tensors_;
};

// All elements of the tensor as float32, in order.
std::vector<float> Dequantize(const GgufTensor& tensor);

}  // namespace choir
