// Weight files: whatever the header claims, a tensor that is given out lies within the file.
#include <cstring>
#include <set>
#include <span>

#include "common/base/check.h"
#include "tests/fuzz/json_mutator.h"
#include "worker/model/files/safetensors.h"

namespace choir {
namespace {

void Parse(const std::string& file) {
  const auto bytes = std::as_bytes(std::span(file));
  const auto tensors = ParseSafetensors(bytes, "f");
  if (!tensors.ok()) {
    CHOIR_CHECK(!tensors.status().message().empty());
    return;
  }
  std::set<std::string> names;
  uint64_t at = tensors->empty() ? file.size() : tensors->front().offset;
  for (const TensorInfo& t : *tensors) {
    CHOIR_CHECK(names.insert(t.name).second);
    CHOIR_CHECK(t.offset == at && t.bytes <= file.size() - t.offset);
    at += t.bytes;
    uint64_t count = 1;
    for (const int64_t d : t.shape) {
      CHOIR_CHECK(d >= 0);
      count *= static_cast<uint64_t>(d);
    }
    if (t.dtype) CHOIR_CHECK(count * SizeOf(*t.dtype) == t.bytes);
  }
  CHOIR_CHECK(at == file.size());
}

}  // namespace
}  // namespace choir

// Once as it is, once as a header with what follows as the data.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  choir::Parse(std::string(reinterpret_cast<const char*>(data), size));
  const auto [header, rest] = choir::fuzz::SplitInput(data, size);
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  choir::Parse(file + header + rest);
  return 0;
}
