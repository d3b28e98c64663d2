// HTTP requests: a head that is accepted holds nothing that could split a message, and a chunked
// body is the same however its bytes arrive.
#include <algorithm>

#include "common/base/check.h"
#include "gateway/http/chunked_decoder.h"
#include "gateway/http/http_parser.h"

namespace choir {
namespace {

constexpr uint64_t kBodyMax = 4096;

// 0, or the status of the first complaint.
int Scan(const std::string& text, size_t step) {
  HeadScanner scanner;
  for (size_t end = std::min(step, text.size());; end = std::min(end + step, text.size())) {
    const HttpError error = scanner.Scan(std::string_view(text).substr(0, end), HttpLimits());
    if (error.status != 0 || end == text.size()) return error.status;
  }
}

void Head(const std::string& text) {
  CHOIR_CHECK(Scan(text, 1) == Scan(text, text.size()));
  HttpHead head;
  const HttpError error = ParseHead(text, HttpLimits(), &head);
  if (error.status != 0) {
    CHOIR_CHECK(error.status >= 400 && error.status < 600 && !error.message.empty());
    return;
  }
  constexpr char kBreaks[] = {'\r', '\n', '\0'};
  const auto clean = [&](const std::string& s) {
    return s.find_first_of(kBreaks, 0, sizeof kBreaks) == std::string::npos;
  };
  CHOIR_CHECK(!head.path.empty() && clean(head.path) && clean(head.query) && clean(head.method));
  for (const auto& [name, value] : head.fields) CHOIR_CHECK(clean(name) && clean(value));
  CHOIR_CHECK(!(head.chunked && head.has_length));
}

struct Decoded {
  int status = 0;
  bool done = false;
  std::string body, rest;
};

Decoded Decode(std::string bytes, size_t step) {
  ChunkedDecoder decoder(kBodyMax);
  Decoded out;
  std::string buffer;
  while (!decoder.done()) {
    const size_t n = std::min(step, bytes.size());
    if (n == 0) break;
    buffer += bytes.substr(0, n);
    bytes.erase(0, n);
    const HttpError error = decoder.Push(&buffer);
    if (error.status != 0) {
      out.status = error.status;
      return out;
    }
  }
  out.done = decoder.done();
  if (out.done) {
    out.body = decoder.TakeBody();
    out.rest = buffer + bytes;
    CHOIR_CHECK(out.body.size() <= kBodyMax);
  }
  return out;
}

}  // namespace
}  // namespace choir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  choir::Head(text + "\r\n\r\n");
  const size_t end = text.find("\r\n\r\n");
  const std::string body = end == std::string::npos ? text : text.substr(end + 4);
  if (end != std::string::npos) choir::Head(text.substr(0, end + 4));
  const auto whole = choir::Decode(body, body.size() + 1);
  for (const size_t step : {1, 7}) {
    const auto parts = choir::Decode(body, step);
    CHOIR_CHECK((parts.status != 0) == (whole.status != 0) && parts.done == whole.done);
    CHOIR_CHECK(parts.body == whole.body && parts.rest == whole.rest);
  }
  return 0;
}
