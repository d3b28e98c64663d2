#include "gateway/cors.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace choir {
namespace {

constexpr const char* kExposed =
    "x-request-id, retry-after, x-choir-audit, x-ratelimit-limit-requests, "
    "x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
    "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens";
constexpr size_t kRequestHeadersMax = 2048;  // bytes of a preflight's list that is given back

bool IsHostChar(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) ||
         std::string_view(".-:[]").find(c) != std::string_view::npos;
}

// A list of field names, which is safe to give back.
bool IsFieldList(std::string_view text) {
  return text.size() <= kRequestHeadersMax && std::all_of(text.begin(), text.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) ||
                  (c != '\0' && std::string_view("-_., ").find(c) != std::string_view::npos);
         });
}

bool IsAllowed(const std::vector<std::string>& allowed, std::string_view origin) {
  return !origin.empty() && std::any_of(allowed.begin(), allowed.end(), [origin](const auto& a) {
    return a == "*" || a == origin;
  });
}

}  // namespace

Status CheckOrigin(const std::string& origin) {
  if (origin == "*") return absl::OkStatus();
  for (const std::string_view scheme : {"https://", "http://"}) {
    if (!std::string_view(origin).starts_with(scheme)) continue;
    const std::string_view host = std::string_view(origin).substr(scheme.size());
    if (!host.empty() && std::all_of(host.begin(), host.end(), IsHostChar)) {
      return absl::OkStatus();
    }
  }
  return InvalidArgument(
      "'{}' is no origin: write https://host or https://host:port, without a path, or *", origin);
}

HttpFields CorsFields(const std::vector<std::string>& allowed, const HttpHead& head) {
  if (allowed.empty()) return {};
  HttpFields fields = {{"vary", "origin"}};
  const std::string_view origin = head.Field("origin");
  if (!IsAllowed(allowed, origin)) return fields;
  const bool all = std::find(allowed.begin(), allowed.end(), "*") != allowed.end();
  fields.emplace_back("access-control-allow-origin", all ? "*" : std::string(origin));
  fields.emplace_back("access-control-expose-headers", kExposed);
  return fields;
}

std::optional<HttpFields> PreflightFields(const std::vector<std::string>& allowed,
                                          const HttpHead& head, const std::string& method) {
  if (head.method != "OPTIONS" || head.Field("access-control-request-method").empty() ||
      !IsAllowed(allowed, head.Field("origin"))) {
    return std::nullopt;
  }
  HttpFields fields = {{"access-control-allow-methods", method}, {"access-control-max-age", "600"}};
  const std::string_view wanted = head.Field("access-control-request-headers");
  if (!wanted.empty() && IsFieldList(wanted)) {
    fields.emplace_back("access-control-allow-headers", std::string(wanted));
  }
  return fields;
}

}  // namespace choir
