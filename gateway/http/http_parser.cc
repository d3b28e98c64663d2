#include "gateway/http/http_parser.h"

#include <algorithm>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cctype>
#include <charconv>

namespace choir {
namespace {

namespace http = boost::beast::http;
namespace asio = boost::asio;

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// What Beast accepts and we do not.
HttpError CheckRaw(std::string_view text, const HttpLimits& limits) {
  int64_t lines = -2;  // the request line and the empty one
  for (size_t at = text.find('\n'); at != std::string_view::npos; at = text.find('\n', at + 1)) {
    ++lines;
    if (at == 0 || text[at - 1] != '\r') return {400, "a header line does not end in CRLF"};
    if (at + 1 < text.size() && (text[at + 1] == ' ' || text[at + 1] == '\t')) {
      return {400, "folded header lines are not accepted"};
    }
  }
  if (lines > limits.header_lines_max) return {431, "too many header lines"};
  if (text.find('\0') != std::string_view::npos) return {400, "a header holds a NUL byte"};
  return {};
}

HttpError ReadLength(HttpHead* head) {
  int lengths = 0, encodings = 0;
  for (const auto& [name, value] : head->fields) {
    if (name == "content-length") {
      ++lengths;
      const auto [rest, error] =
          std::from_chars(value.data(), value.data() + value.size(), head->content_length);
      if (error != std::errc() || rest != value.data() + value.size()) {
        return {400, "content-length is not a number"};
      }
      head->has_length = true;
    } else if (name == "transfer-encoding") {
      ++encodings;
      if (Lower(value) != "chunked") return {501, "transfer-encoding other than chunked"};
      head->chunked = true;
    }
  }
  if (lengths > 1) return {400, "content-length is given twice"};
  if (encodings > 1) return {400, "transfer-encoding is given twice"};
  if (lengths > 0 && encodings > 0) return {400, "content-length with transfer-encoding"};
  if (head->chunked && head->minor_version == 0) return {400, "chunked body in HTTP/1.0"};
  return {};
}

}  // namespace

HttpError ParseHead(std::string_view text, const HttpLimits& limits, HttpHead* head) {
  if (static_cast<int64_t>(text.size()) > limits.header_bytes_max) return {431, "header too large"};
  if (HttpError e = CheckRaw(text, limits); e.status != 0) return e;

  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(limits.header_bytes_max));
  parser.body_limit(boost::none);
  parser.skip(true);
  boost::system::error_code error;
  parser.put(asio::buffer(text.data(), text.size()), error);
  if (error == http::error::header_limit) return {431, "header too large"};
  if (error == http::error::bad_version) return {505, "only HTTP/1.0 and HTTP/1.1 are spoken here"};
  if (error && error != http::error::need_more) {
    return {400, "the request header is malformed: " + error.message()};
  }
  if (!parser.is_header_done()) return {400, "the request header is malformed"};

  const auto& message = parser.get();
  head->method = std::string(message.method_string());
  const std::string target(message.target());
  if (target.empty() || (target[0] != '/' && target != "*"))
    return {400, "the target is not a path"};
  const size_t query = target.find('?');
  head->path = target.substr(0, query);
  head->query = query == std::string::npos ? "" : target.substr(query + 1);
  head->minor_version = static_cast<int>(message.version()) - 10;
  if (head->minor_version != 0 && head->minor_version != 1)
    return {505, "only HTTP/1.0 and HTTP/1.1 are spoken here"};
  head->fields.clear();
  for (const auto& field : message) {
    head->fields.emplace_back(
        Lower(std::string_view(field.name_string().data(), field.name_string().size())),
        std::string(field.value()));
  }
  if (HttpError e = ReadLength(head); e.status != 0) return e;
  if (head->minor_version == 1 && head->Field("host").empty())
    return {400, "HTTP/1.1 needs a Host header"};
  head->keep_alive = message.keep_alive();
  head->expect_continue =
      head->minor_version == 1 && Lower(head->Field("expect")) == "100-continue";
  return {};
}

// Beast decodes chunks when it is given a header first; the decoder makes one up.
struct ChunkedDecoder::Impl {
  http::request_parser<http::string_body> parser;
};

ChunkedDecoder::ChunkedDecoder(uint64_t body_bytes_max) : impl_(std::make_unique<Impl>()) {
  impl_->parser.body_limit(body_bytes_max);
  impl_->parser.eager(true);
  static constexpr std::string_view kHeader =
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  boost::system::error_code error;
  impl_->parser.put(asio::buffer(kHeader.data(), kHeader.size()), error);
}
ChunkedDecoder::~ChunkedDecoder() = default;

HttpError ChunkedDecoder::Push(std::string* bytes) {
  size_t used = 0;
  while (used < bytes->size() && !done()) {
    boost::system::error_code error;
    const size_t n =
        impl_->parser.put(asio::buffer(bytes->data() + used, bytes->size() - used), error);
    used += n;
    if (error == http::error::need_more) break;
    if (error == http::error::body_limit) return {413, "the body is too large"};
    if (error) return {400, "the chunked body is malformed: " + error.message()};
    if (n == 0) break;
  }
  bytes->erase(0, used);
  return {};
}

bool ChunkedDecoder::done() const { return impl_->parser.is_done(); }
std::string ChunkedDecoder::TakeBody() { return std::move(impl_->parser.get().body()); }

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 402:
      return "Payment Required";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

}  // namespace choir
