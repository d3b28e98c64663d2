// What fails here ends the process with 1 and the reason: each section of gpu_check is a process.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "common/base/status.h"

namespace choir::gpu {

[[noreturn]] inline void Fail(const std::string& what) {
  std::fprintf(stderr, "choir-gpu-check: %s\n", what.c_str());
  std::exit(1);
}

inline void Must(const char* error, const std::string& what) {
  if (error != nullptr) Fail(what + ": " + error);
}

inline void Must(const Status& status, const std::string& what) {
  if (!status.ok()) Fail(what + ": " + MessageOf(status));
}

template <class T>
T Must(StatusOr<T> value, const std::string& what) {
  Must(value.status(), what);
  return std::move(value).value();
}

}  // namespace choir::gpu
