#include "gateway/request_headers.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>

#include "common/base/bearer.h"
#include "gateway/http/request_id.h"

namespace choir {
namespace {

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

}  // namespace

std::string BearerOf(const HttpHead& head) {
  return std::string(BearerIn(head.Field("authorization")));
}

std::string ClientOf(const HttpHead& head, const std::string& peer,
                     const std::vector<IpNetwork>& trusted_proxies) {
  std::optional<IpAddress> client = AddressOfPeer(peer);
  // Each proxy appends whom it heard the request from; only what a trusted one appended is known.
  auto field = head.fields.rbegin();
  std::string_view left;
  while (client && ContainsAddress(trusted_proxies, *client)) {
    while (left.empty() && field != head.fields.rend()) {
      if (field->first == "x-forwarded-for") left = field->second;
      ++field;
    }
    if (left.empty()) break;
    const size_t comma = left.rfind(',');
    const std::string_view last = comma == std::string_view::npos ? left : left.substr(comma + 1);
    const auto next = AddressOfPeer(Trimmed(last));
    if (!next) break;
    client = next;
    left = comma == std::string_view::npos ? std::string_view() : left.substr(0, comma);
  }
  return client ? client->Text() : peer;
}

RestError CheckHeaders(const HttpHead& head, uint32_t* timeout_ms) {
  const std::string_view id = head.Field("x-request-id");
  if (!id.empty() && !IsRequestId(id)) {
    return InvalidValue("x-request-id",
                        "x-request-id: must be at most 128 characters of [A-Za-z0-9._-]");
  }
  const std::string_view timeout = head.Field("x-request-timeout");
  if (timeout.empty()) return {};
  double seconds = 0;
  const auto [rest, error] =
      std::from_chars(timeout.data(), timeout.data() + timeout.size(), seconds);
  if (error != std::errc() || rest != timeout.data() + timeout.size() ||
      !(seconds > 0 && seconds <= 86400)) {
    return InvalidValue("x-request-timeout",
                        "x-request-timeout: must be seconds above 0 and at most 86400");
  }
  *timeout_ms = static_cast<uint32_t>(std::ceil(seconds * 1000));
  return {};
}

RestError PositionOf(const HttpHead& head, StreamPosition* position) {
  const std::string_view id = head.Field("last-event-id");
  if (id.empty()) return {};
  auto parsed = ParsePositionId(id);
  if (!parsed) {
    return InvalidValue("last-event-id",
                        "last-event-id: must be the id of an event of this stream, as it was sent");
  }
  *position = *std::move(parsed);
  return {};
}

}  // namespace choir
