#include "gateway/http/http_parser.h"

#include <fmt/format.h>

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

bool IsTokenChar(char c) {  // RFC 9110 5.6.2
  return std::isalnum(static_cast<unsigned char>(c)) ||
         (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

// Given twice, each of them would leave open which one counts.
constexpr std::string_view kSingleFields[] = {"host",         "authorization",     "content-type",
                                              "x-request-id", "x-request-timeout", "x-choir-class"};

HttpError CheckSingle(const HttpHead& head) {
  for (const std::string_view name : kSingleFields) {
    const auto count = std::count_if(head.fields.begin(), head.fields.end(),
                                     [name](const auto& field) { return field.first == name; });
    if (count > 1) return {400, std::string(name) + " is given twice"};
  }
  return {};
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// False: a bad escape, or one of a control byte.
bool DecodePath(std::string_view raw, std::string* out) {
  out->clear();
  for (size_t i = 0; i < raw.size(); ++i) {
    char c = raw[i];
    if (c == '%') {
      if (i + 2 >= raw.size()) return false;
      const int high = HexDigit(raw[i + 1]), low = HexDigit(raw[i + 2]);
      if (high < 0 || low < 0) return false;
      c = static_cast<char>(high * 16 + low);
      if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) return false;
      i += 2;
    }
    out->push_back(c);
  }
  return true;
}

// Origin, absolute and asterisk form (RFC 9112 3.2); the absolute form's host is not looked at, as
// the Host field is not.
HttpError ReadTarget(std::string_view target, HttpHead* head) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (Lower(target.substr(0, scheme.size())) != scheme) continue;
    target.remove_prefix(scheme.size());
    const size_t end = target.find_first_of("/?");
    if (end == 0 || target.empty()) return {400, "the target has no host"};
    target = end == std::string_view::npos ? "/" : target.substr(end);
    break;
  }
  const size_t query = target.find('?');
  std::string_view path = target.substr(0, query);
  if (path.empty() && query != std::string_view::npos) path = "/";
  if (path.empty() || (path[0] != '/' && path != "*")) return {400, "the target is not a path"};
  if (!DecodePath(path, &head->path)) return {400, "the target has a bad percent escape"};
  head->query = query == std::string_view::npos ? "" : std::string(target.substr(query + 1));
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

// Whether the request line has three parts, the last of the form HTTP/n: another version, and not a
// malformed line.
bool HasVersion(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\r'));
  const auto spaces = std::count(line.begin(), line.end(), ' ');
  const std::string_view version = line.substr(std::min(line.rfind(' '), line.size()));
  return spaces == 2 && version.starts_with(" HTTP/");
}

}  // namespace

HttpError HeaderTooLarge(const HttpLimits& limits) {
  return {431, fmt::format("the header is larger than {} bytes", limits.header_bytes_max)};
}

HttpError HeadScanner::LineEnd(std::string_view text, const HttpLimits& limits) {
  const size_t end = at_;
  if (end == 0 || text[end - 1] != '\r') return {400, "a header line does not end in CRLF"};
  if (end - 1 > line_begin_ && ++lines_ > limits.header_lines_max + 1) {
    return {431, fmt::format("the header has more than {} lines", limits.header_lines_max)};
  }
  line_begin_ = end + 1;
  return {};
}

HttpError HeadScanner::Scan(std::string_view text, const HttpLimits& limits) {
  for (; at_ < text.size(); ++at_) {
    const char c = text[at_];
    if (c == '\0') return {400, "a header holds a NUL byte"};
    if (at_ == 0 && !IsTokenChar(c)) return {400, "the request line does not begin with a method"};
    if (at_ == line_begin_ && at_ > 0 && (c == ' ' || c == '\t')) {
      return {400, "folded header lines are not accepted"};
    }
    if (c == '\n') {
      if (HttpError e = LineEnd(text, limits); e.status != 0) return e;
    } else if (at_ > 0 && text[at_ - 1] == '\r') {
      return {400, "a header holds a carriage return within a line"};
    }
  }
  return {};
}

HttpError ParseHead(std::string_view text, const HttpLimits& limits, HttpHead* head) {
  if (static_cast<int64_t>(text.size()) > limits.header_bytes_max) return HeaderTooLarge(limits);
  if (HttpError e = HeadScanner().Scan(text, limits); e.status != 0) return e;

  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(limits.header_bytes_max));
  parser.body_limit(boost::none);
  parser.skip(true);
  boost::system::error_code error;
  parser.put(asio::buffer(text.data(), text.size()), error);
  if (error == http::error::header_limit) return HeaderTooLarge(limits);
  if (error == http::error::bad_version && HasVersion(text))
    return {505, "only HTTP/1.0 and HTTP/1.1 are spoken here"};
  if (error && error != http::error::need_more) {
    return {400, "the request header is malformed: " + error.message()};
  }
  if (!parser.is_header_done()) return {400, "the request header is malformed"};

  const auto& message = parser.get();
  head->method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  if (HttpError e = ReadTarget(target, head); e.status != 0) return e;
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
  if (HttpError e = CheckSingle(*head); e.status != 0) return e;
  if (head->minor_version == 1 && head->Field("host").empty())
    return {400, "HTTP/1.1 needs a Host header"};
  head->keep_alive = message.keep_alive();
  head->expect_continue =
      head->minor_version == 1 && Lower(head->Field("expect")) == "100-continue";
  return {};
}

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
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
