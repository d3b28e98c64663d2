// Builds small GGUF files for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "tools/model/gguf.h"

namespace choir {

class GgufBuilder {
 public:
  GgufBuilder& String(const std::string& key, const std::string& value) {
    Key(key, 8);
    Text(&keys_, value);
    return *this;
  }
  GgufBuilder& U32(const std::string& key, uint32_t value) {
    Key(key, 4);
    Put(&keys_, value);
    return *this;
  }
  GgufBuilder& F32(const std::string& key, float value) {
    Key(key, 6);
    Put(&keys_, value);
    return *this;
  }
  GgufBuilder& Strings(const std::string& key, const std::vector<std::string>& values) {
    Key(key, 9);
    Put<uint32_t>(&keys_, 8);
    Put<uint64_t>(&keys_, values.size());
    for (const std::string& v : values) Text(&keys_, v);
    return *this;
  }
  GgufBuilder& I32s(const std::string& key, const std::vector<int32_t>& values) {
    Key(key, 9);
    Put<uint32_t>(&keys_, 5);
    Put<uint64_t>(&keys_, values.size());
    for (const int32_t v : values) Put(&keys_, v);
    return *this;
  }
  // `shape` as GGUF lists it, fastest axis first; `data` must have the right size.
  GgufBuilder& Tensor(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type,
                      const std::string& data) {
    Text(&infos_, name);
    Put<uint32_t>(&infos_, static_cast<uint32_t>(shape.size()));
    for (const uint64_t d : shape) Put(&infos_, d);
    Put(&infos_, type);
    Put<uint64_t>(&infos_, data_.size());
    data_ += data;
    data_.resize((data_.size() + 31) / 32 * 32);
    ++num_tensors_;
    return *this;
  }
  GgufBuilder& F32Tensor(const std::string& name, const std::vector<uint64_t>& shape,
                         const std::vector<float>& values) {
    return Tensor(name, shape, 0,
                  std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  }

  std::string Build() const {
    std::string out = "GGUF";
    Put<uint32_t>(&out, 3);
    Put<uint64_t>(&out, num_tensors_);
    Put<uint64_t>(&out, num_keys_);
    out += keys_ + infos_;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

  template <typename T>
  static void Put(std::string* out, T value) {
    out->append(reinterpret_cast<const char*>(&value), sizeof(T));
  }

 private:
  static void Text(std::string* out, const std::string& text) {
    Put<uint64_t>(out, text.size());
    *out += text;
  }
  void Key(const std::string& key, uint32_t kind) {
    Text(&keys_, key);
    Put(&keys_, kind);
    ++num_keys_;
  }

  std::string keys_;
  std::string infos_;
  std::string data_;
  uint64_t num_keys_ = 0;
  uint64_t num_tensors_ = 0;
};

inline StatusOr<Gguf> ParseGguf(const std::string& bytes) {
  return Gguf::Parse(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

}  // namespace choir
