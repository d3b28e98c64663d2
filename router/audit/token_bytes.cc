#include "router/audit/token_bytes.h"

namespace choir {
namespace {

void AppendWord(uint32_t value, std::string* out) {
  for (int shift = 0; shift < 32; shift += 8) out->push_back(static_cast<char>(value >> shift));
}

}  // namespace

std::string TokenBytes(std::span<const int32_t> ids) {
  std::string out;
  out.reserve(ids.size() * 4);
  for (const int32_t id : ids) AppendWord(static_cast<uint32_t>(id), &out);
  return out;
}

std::string OutputBytes(const std::vector<std::vector<int32_t>>& outputs) {
  std::string out;
  for (const std::vector<int32_t>& ids : outputs) {
    AppendWord(static_cast<uint32_t>(ids.size()), &out);
    out += TokenBytes(ids);
  }
  return out;
}

std::vector<int32_t> IdsOfTokenBytes(const std::string& bytes) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    uint32_t word = 0;
    for (size_t b = 4; b-- > 0;) word = word << 8 | static_cast<unsigned char>(bytes[i + b]);
    ids.push_back(static_cast<int32_t>(word));
  }
  return ids;
}

}  // namespace choir
