// A chunked body (RFC 9112 7.1) as its bytes arrive, strictly: what is no size, no line end or no
// trailer is an error at once, where Beast would go on waiting. Extensions and trailers are checked
// and dropped. Pure; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "gateway/http/http_types.h"

namespace choir {

class ChunkedDecoder {
 public:
  explicit ChunkedDecoder(uint64_t body_bytes_max) : body_bytes_max_(body_bytes_max) {}
  // Consumes from the front of `bytes`; what follows the body stays. done() after the last chunk.
  // 400: malformed; 413: the body is too large.
  HttpError Push(std::string* bytes);
  bool done() const { return state_ == State::kDone; }
  std::string TakeBody() { return std::move(body_); }

 private:
  enum class State { kSize, kData, kDataEnd, kTrailer, kDone };

  HttpError Step(std::string_view rest, size_t* used);
  HttpError TakeLine(std::string_view line);
  HttpError TakeSize(std::string_view line);

  const uint64_t body_bytes_max_;
  State state_ = State::kSize;
  std::string body_;
  uint64_t left_ = 0;    // of the chunk
  size_t searched_ = 0;  // bytes of an unfinished line that hold no line end
  size_t trailer_bytes_ = 0;
};

}  // namespace choir
