// What a process does that could not start, where a restart would only repeat it, as in a pod: it
// stays for a while, alive but not ready, tells the reason at its admin port, and tries again from
// the beginning. A part that answers there before it has started says so all the while
// (WhyFailedBefore). For mains, on their one thread.
#pragma once

#include <signal.h>

#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace choir {

// SIGTERM and SIGINT.
sigset_t EndSignals();

// Serves `admin` (/readyz: 503 with `why`; /livez: 200; /metrics: choir_start_failed 1 and what
// else is every part's) for `retry_after`, then starts the program of this process again with
// `argv`. Without a port to be had there (another process may have it for now) it waits all the
// same, and only the log says why. `part` is as Metrics has it. Comes back only with an exit code:
// 0 after SIGTERM or SIGINT, which it blocks meanwhile and other threads must block, 1 when nothing
// else can be done. A `retry_after` of 0 is 1 at once.
int StayOrRetry(const std::string& part, const std::string& admin, const Status& why,
                Duration retry_after, char** argv);

// Why the try before this one failed, after which StayOrRetry started this process again; "": it
// did not. Call it before other threads run.
std::string WhyFailedBefore();

}  // namespace choir
