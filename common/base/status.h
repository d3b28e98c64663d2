// Operating errors: absl::Status with who, what and which id. Build them only with the functions
// here (Debian's absl does not take std::string_view):
//   return InvalidArgument("tensor {}: shape {} does not match config {}", name, got, want);
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace choir {

using absl::Status;
using absl::StatusOr;

#define CHOIR_STATUS_BUILDER_(Name, code)                                                 \
  template <typename... A>                                                                \
  Status Name(fmt::format_string<A...> format, A&&... args) {                             \
    return Status(absl::StatusCode::code, fmt::format(format, std::forward<A>(args)...)); \
  }
CHOIR_STATUS_BUILDER_(InvalidArgument, kInvalidArgument)
CHOIR_STATUS_BUILDER_(NotFound, kNotFound)
CHOIR_STATUS_BUILDER_(AlreadyExists, kAlreadyExists)
CHOIR_STATUS_BUILDER_(PermissionDenied, kPermissionDenied)
CHOIR_STATUS_BUILDER_(Unauthenticated, kUnauthenticated)
CHOIR_STATUS_BUILDER_(ResourceExhausted, kResourceExhausted)
CHOIR_STATUS_BUILDER_(FailedPrecondition, kFailedPrecondition)
CHOIR_STATUS_BUILDER_(Unavailable, kUnavailable)
CHOIR_STATUS_BUILDER_(DeadlineExceeded, kDeadlineExceeded)
CHOIR_STATUS_BUILDER_(Cancelled, kCancelled)
CHOIR_STATUS_BUILDER_(Unimplemented, kUnimplemented)
CHOIR_STATUS_BUILDER_(Internal, kInternal)
#undef CHOIR_STATUS_BUILDER_

inline std::string MessageOf(const Status& status) {
  return std::string(status.message().data(), status.message().size());
}

// The same status with "context: " in front of its message.
inline Status Annotate(const Status& status, std::string_view context) {
  if (status.ok()) return status;
  return Status(status.code(), fmt::format("{}: {}", context, MessageOf(status)));
}

}  // namespace choir

#define CHOIR_CONCAT_INNER_(a, b) a##b
#define CHOIR_CONCAT_(a, b) CHOIR_CONCAT_INNER_(a, b)

#define CHOIR_RETURN_IF_ERROR(expr)                      \
  do {                                                   \
    if (::absl::Status s_ = (expr); !s_.ok()) return s_; \
  } while (false)

#define CHOIR_ASSIGN_OR_RETURN(lhs, expr) \
  CHOIR_ASSIGN_OR_RETURN_(CHOIR_CONCAT_(result_, __LINE__), lhs, expr)
#define CHOIR_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                            \
  if (!tmp.ok()) return tmp.status();           \
  lhs = std::move(tmp).value()
