// Reads a safetensors file whole, for tests of what was written.
#pragma once

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/tensor/dtype.h"
#include "common/tensor/small_floats.h"

namespace choir {

struct ReadTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

inline std::string ReadFileText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline std::map<std::string, ReadTensor> ReadSafetensors(const std::string& path) {
  const std::string text = ReadFileText(path);
  uint64_t header = 0;
  std::memcpy(&header, text.data(), 8);
  std::map<std::string, ReadTensor> out;
  const auto json = nlohmann::json::parse(text.substr(8, header));
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    ReadTensor t{entry["dtype"], entry["shape"], {}};
    const char* p = text.data() + 8 + header + entry["data_offsets"][0].get<size_t>();
    const char* end = text.data() + 8 + header + entry["data_offsets"][1].get<size_t>();
    while (p < end) {
      if (t.dtype == "F32") {
        float value = 0;
        std::memcpy(&value, p, 4);
        t.values.push_back(value);
        p += 4;
      } else if (t.dtype == "U8" || t.dtype == "F8_E4M3") {  // codes as they are
        t.values.push_back(static_cast<uint8_t>(*p));
        p += 1;
      } else if (t.dtype == "F16") {
        uint16_t value = 0;
        std::memcpy(&value, p, 2);
        t.values.push_back(F16ToF32(value));
        p += 2;
      } else {
        bf16 value = 0;
        std::memcpy(&value, p, 2);
        t.values.push_back(ToF32(value));
        p += 2;
      }
    }
    out[name] = std::move(t);
  }
  return out;
}

}  // namespace choir
