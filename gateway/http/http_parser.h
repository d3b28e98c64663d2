// HTTP/1.x requests from untrusted bytes: Beast's parser behind plain values, with the checks that
// Beast leaves to us (folded lines, two lengths, length with transfer-encoding). Pure; one thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gateway/http/http_types.h"

namespace choir {

struct HttpError {
  int status = 0;  // 0: no error; 400, 431, 413, 501, 505
  std::string message;
};

// `text` is the header with its empty line. REQUIRES: it ends in "\r\n\r\n".
HttpError ParseHead(std::string_view text, const HttpLimits& limits, HttpHead* head);

// Decodes a chunked body as its bytes arrive.
class ChunkedDecoder {
 public:
  explicit ChunkedDecoder(uint64_t body_bytes_max);
  ~ChunkedDecoder();
  // Consumes from the front of `bytes`; what follows the body stays. done() after the last chunk.
  HttpError Push(std::string* bytes);
  bool done() const;
  std::string TakeBody();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string_view ReasonPhrase(int status);

}  // namespace choir
