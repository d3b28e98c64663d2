// CHOIR_CHECK: programmer errors. Stays on in release builds: prints file, line and the condition,
// then aborts. Never use it for what a peer, a file or a client can cause (that is a Status).
#pragma once

#include <cstdio>
#include <cstdlib>

namespace choir::internal {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
  std::fflush(stderr);
  std::abort();
}
}  // namespace choir::internal

#define CHOIR_CHECK(cond) \
  ((cond) ? (void)0 : ::choir::internal::CheckFailed(__FILE__, __LINE__, #cond))

#ifdef NDEBUG
#define CHOIR_DCHECK(cond) ((void)0)
#else
#define CHOIR_DCHECK(cond) CHOIR_CHECK(cond)
#endif
