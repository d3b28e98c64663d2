#include "gateway/http/chunked_decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace choir {
namespace {

constexpr size_t kSizeLineMax = 4096;          // with extensions
constexpr size_t kTrailerBytesMax = 64 << 10;  // all of them
constexpr size_t kSizeDigitsMax = 15;          // hexadecimal; more could overflow

HttpError Malformed(const char* what) {
  return {400, std::string("the chunked body is malformed: ") + what};
}

bool HasControl(std::string_view line) {
  return std::any_of(line.begin(), line.end(), [](char c) {
    return (static_cast<uint8_t>(c) < 0x20 && c != '\t') || c == 0x7f;
  });
}

}  // namespace

HttpError ChunkedDecoder::Push(std::string* bytes) {
  size_t at = 0;
  HttpError error;
  while (at < bytes->size() && !done()) {
    size_t used = 0;
    error = Step(std::string_view(*bytes).substr(at), &used);
    at += used;
    if (error.status != 0 || used == 0) break;
  }
  bytes->erase(0, at);
  return error;
}

// Uses nothing when more bytes are needed.
HttpError ChunkedDecoder::Step(std::string_view rest, size_t* used) {
  if (state_ == State::kData) {
    *used = static_cast<size_t>(std::min<uint64_t>(left_, rest.size()));
    body_.append(rest.substr(0, *used));
    left_ -= *used;
    if (left_ == 0) state_ = State::kDataEnd;
    return {};
  }
  if (state_ == State::kDataEnd) {
    if (rest[0] != '\r' || (rest.size() > 1 && rest[1] != '\n')) {
      return Malformed("a chunk is longer than its size");
    }
    if (rest.size() < 2) return {};
    *used = 2;
    state_ = State::kSize;
    return {};
  }
  const size_t trailers_left = kTrailerBytesMax - std::min(trailer_bytes_, kTrailerBytesMax);
  const size_t most = state_ == State::kSize ? kSizeLineMax : trailers_left;
  const size_t end = rest.find('\n', std::exchange(searched_, 0));
  if (std::min(end, rest.size()) > most) {
    return Malformed(state_ == State::kSize ? "a size line is too long" : "too many trailers");
  }
  if (end == std::string_view::npos) {
    searched_ = rest.size();
    return {};
  }
  if (end == 0 || rest[end - 1] != '\r') return Malformed("a line does not end in CRLF");
  *used = end + 1;
  return TakeLine(rest.substr(0, end - 1));
}

HttpError ChunkedDecoder::TakeLine(std::string_view line) {
  if (HasControl(line)) return Malformed("a line holds a control byte");
  if (state_ == State::kSize) return TakeSize(line);
  if (line.empty()) {
    state_ = State::kDone;
    return {};
  }
  trailer_bytes_ += line.size() + 2;
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0 || line.find_first_of(" \t") < colon) {
    return Malformed("a trailer is no field");
  }
  return {};
}

HttpError ChunkedDecoder::TakeSize(std::string_view line) {
  uint64_t size = 0;
  const auto [stop, error] = std::from_chars(line.data(), line.data() + line.size(), size, 16);
  const auto digits = static_cast<size_t>(stop - line.data());
  if (error != std::errc() || digits > kSizeDigitsMax) return Malformed("a chunk has no good size");
  std::string_view rest = line.substr(digits);
  rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
  if (!rest.empty() && rest[0] != ';') return Malformed("a chunk has no good size");
  if (size > body_bytes_max_ - body_.size()) {
    return {413, fmt::format("the body is larger than {} bytes", body_bytes_max_)};
  }
  left_ = size;
  state_ = size == 0 ? State::kTrailer : State::kData;
  return {};
}

}  // namespace choir
