// What the operating system allows at most, measured in the run that uses it: handing over between
// threads, loopback TCP, durable writes. Blocking; two threads at most.
#pragma once

#include <string>

#include "common/base/status.h"

namespace choir::bench {

// Seconds, median of many: a thread wakes another that sleeps, and is woken by it.
double ThreadRoundTrip();

// Seconds, median of many: one byte to a thread behind a loopback TCP connection and back.
StatusOr<double> TcpRoundTrip();
// Bytes a second through one loopback TCP connection, written in pieces of 64 KiB.
StatusOr<double> TcpThroughput();

// Seconds, median of many: 4 KiB appended to a file in `directory` and fdatasync.
StatusOr<double> DurableAppend(const std::string& directory);

}  // namespace choir::bench
