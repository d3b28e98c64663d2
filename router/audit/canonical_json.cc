#include "router/audit/canonical_json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/base/check.h"

namespace choir {
namespace {

using Json = nlohmann::json;

constexpr int64_t kIntegerMax = int64_t{1} << 53;

bool IsExactInteger(const Json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>() < uint64_t{kIntegerMax};
  return value.get<int64_t>() > -kIntegerMax && value.get<int64_t>() < kIntegerMax;
}

// Null for a character without one.
const char* ShortEscape(char c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return nullptr;
  }
}

void AppendString(std::string_view text, std::string* out) {
  static constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  size_t run = 0;  // begin of what is copied as it is
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\') continue;
    *out += text.substr(run, i - run);
    run = i + 1;
    if (const char* escape = ShortEscape(c)) {
      *out += escape;
    } else {
      *out += "\\u00";
      out->push_back(kHex[c >> 4]);
      out->push_back(kHex[c & 15]);
    }
  }
  *out += text.substr(run);
  out->push_back('"');
}

// ECMA-262, Number::toString: the shortest digits, zeros up to the point, an exponent from 1e21 and
// below 1e-6.
void AppendDouble(double value, std::string* out) {
  CHOIR_CHECK(std::isfinite(value));
  if (value == 0) {
    out->push_back('0');  // -0 as well
    return;
  }
  if (value < 0) out->push_back('-');
  char text[32];
  const auto end =
      std::to_chars(text, text + sizeof text, std::fabs(value), std::chars_format::scientific);
  const std::string_view all(text, static_cast<size_t>(end.ptr - text));
  const size_t e = all.find('e');
  std::string digits(all.substr(0, e));
  if (digits.size() > 1) digits.erase(1, 1);  // the point
  int exponent = 0;
  std::from_chars(text + e + (text[e + 1] == '+' ? 2 : 1), end.ptr, exponent);
  const int count = static_cast<int>(digits.size());
  if (exponent >= 21 || exponent < -6) {
    if (count > 1) digits.insert(1, ".");
    *out += digits + (exponent < 0 ? "e-" : "e+") + std::to_string(std::abs(exponent));
  } else if (exponent < 0) {
    *out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else if (count <= exponent + 1) {
    *out += digits + std::string(static_cast<size_t>(exponent + 1 - count), '0');
  } else {
    *out += digits.insert(static_cast<size_t>(exponent) + 1, ".");
  }
}

// UTF-16 units sort surrogates before U+E000..U+FFFF; bytes of UTF-8 sort by code point.
bool Utf16Less(const std::string& a, const std::string& b) {
  const auto [x, y] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (x == a.end() || y == b.end()) return x == a.end() && y != b.end();
  const auto p = static_cast<unsigned char>(*x);
  const auto q = static_cast<unsigned char>(*y);
  const bool surrogate_p = p >= 0xf0;
  const bool surrogate_q = q >= 0xf0;
  if (surrogate_p != surrogate_q && p >= 0xee && q >= 0xee) return surrogate_p;
  return p < q;
}

void Append(const Json& value, std::string* out);

// The library keeps members in the order of their bytes, which differs from that of their UTF-16
// units for keys with characters from U+E000 on only.
bool SortedByBytes(const Json& object) {
  for (auto it = object.begin(); it != object.end(); ++it) {
    const std::string& key = it.key();
    if (std::any_of(key.begin(), key.end(),
                    [](char c) { return static_cast<unsigned char>(c) >= 0xee; })) {
      return false;
    }
  }
  return true;
}

// `place`: when not null, where a member `wanted` would begin.
void AppendObject(const Json& value, std::string* out, const std::string& wanted = {},
                  size_t* place = nullptr) {
  std::vector<std::pair<const std::string*, const Json*>> members;
  members.reserve(value.size());
  for (auto it = value.begin(); it != value.end(); ++it) members.emplace_back(&it.key(), &*it);
  if (!SortedByBytes(value)) {
    std::sort(members.begin(), members.end(),
              [](const auto& a, const auto& b) { return Utf16Less(*a.first, *b.first); });
  }
  out->push_back('{');
  for (const auto& [key, member] : members) {
    if (out->back() != '{') out->push_back(',');
    if (place != nullptr && !Utf16Less(*key, wanted)) {
      *place = out->size();
      place = nullptr;
    }
    AppendString(*key, out);
    out->push_back(':');
    Append(*member, out);
  }
  if (place != nullptr) *place = out->size();
  out->push_back('}');
}

void Append(const Json& value, std::string* out) {
  switch (value.type()) {
    case Json::value_t::null:
      *out += "null";
      break;
    case Json::value_t::boolean:
      *out += value.get<bool>() ? "true" : "false";
      break;
    case Json::value_t::string:
      AppendString(value.get_ref<const std::string&>(), out);
      break;
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      CHOIR_CHECK(IsExactInteger(value));
      *out += std::to_string(value.get<int64_t>());
      break;
    case Json::value_t::number_float:
      AppendDouble(value.get<double>(), out);
      break;
    case Json::value_t::array:
      out->push_back('[');
      for (size_t i = 0; i < value.size(); ++i) {
        if (i > 0) out->push_back(',');
        Append(value[i], out);
      }
      out->push_back(']');
      break;
    case Json::value_t::object:
      AppendObject(value, out);
      break;
    default:
      CHOIR_CHECK(false);
  }
}

// Numbers that CanonicalJson could not print again.
bool HasForeignNumbers(const Json& value) {
  if (!value.is_structured()) return !IsCanonicalScalar(value);
  return std::any_of(value.begin(), value.end(), HasForeignNumbers);
}

}  // namespace

bool IsCanonicalScalar(const Json& value) {
  if (value.is_number_float()) return std::isfinite(value.get<double>());
  return !value.is_number() || IsExactInteger(value);
}

std::string CanonicalJson(const Json& value) {
  std::string out;
  Append(value, &out);
  return out;
}

std::string CanonicalJson(const Json& object, std::string_view key, size_t* place) {
  CHOIR_CHECK(object.is_object());
  std::string out;
  AppendObject(object, &out, std::string(key), place);
  return out;
}

std::string CanonicalWithout(Json object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) object.erase(key);
  return CanonicalJson(object);
}

StatusOr<Json> ParseCanonical(std::string_view line) {
  Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return InvalidArgument("it is not JSON");
  if (!value.is_object()) return InvalidArgument("it is not a JSON object");
  // Also finds doubled keys: the parser keeps one of them.
  if (HasForeignNumbers(value) || CanonicalJson(value) != line) {
    return InvalidArgument("it is not in canonical form (RFC 8785)");
  }
  return value;
}

}  // namespace choir
