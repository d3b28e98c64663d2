#include "common/trace/trace_context.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace choir {
namespace {

constexpr size_t kTraceIdChars = 32;
constexpr size_t kSpanIdChars = 16;
constexpr size_t kTraceParentChars = 55;  // of version 00: 2 + 1 + 32 + 1 + 16 + 1 + 2

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;  // upper case is not allowed
}

bool IsId(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return HexDigit(c) >= 0; }) &&
         text.find_first_not_of('0') != std::string_view::npos;
}

}  // namespace

TraceContext ParseTraceParent(std::string_view text) {
  if (text.size() < kTraceParentChars || text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return {};
  }
  const std::string_view version = text.substr(0, 2);
  const std::string_view trace = text.substr(3, kTraceIdChars);
  const std::string_view span = text.substr(36, kSpanIdChars);
  const int high = HexDigit(text[53]), low = HexDigit(text[54]);
  const bool known = HexDigit(version[0]) >= 0 && HexDigit(version[1]) >= 0 && version != "ff";
  if (!known || !IsId(trace) || !IsId(span) || high < 0 || low < 0) return {};
  // Later versions may add fields after these; version 00 has none.
  if (text.size() > kTraceParentChars && (version == "00" || text[kTraceParentChars] != '-')) {
    return {};
  }
  return {std::string(trace), std::string(span), (low & 1) != 0};
}

std::string FormatTraceParent(const TraceContext& context) {
  if (context.trace_id.empty()) return "";
  return fmt::format("00-{}-{}-{}", context.trace_id, context.span_id,
                     context.sampled ? "01" : "00");
}

std::string TraceIdOf(std::string_view trace_parent) {
  return ParseTraceParent(trace_parent).trace_id;
}

std::string MakeTraceId(uint64_t random, uint64_t more_random) {
  return fmt::format("{:016x}{:016x}", random, more_random | 1);  // never all zeros
}

std::string MakeSpanId(uint64_t random) { return fmt::format("{:016x}", random | 1); }

bool SampledByRatio(const std::string& trace_id, double ratio) {
  if (trace_id.size() != kTraceIdChars || ratio <= 0) return false;
  if (ratio >= 1) return true;
  // The last 56 bits are what the specification calls random.
  uint64_t value = 0;
  for (const char c : trace_id.substr(kTraceIdChars - 14)) {
    value = value * 16 + static_cast<uint64_t>(std::max(HexDigit(c), 0));
  }
  return static_cast<double>(value) < ratio * std::ldexp(1.0, 56);
}

}  // namespace choir
