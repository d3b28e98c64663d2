// The thread on which gRPC runs the callbacks of this process (the reactors of services and of
// streams), in place of gRPC's own threads.
//
// gRPC runs them on at least two threads, of which one at a time polls the sockets: each message
// wakes the one that polls, and that wakes the next to poll in its place. And each of these threads
// that had nothing to do for a second sleeps for 100 ms, whatever comes meanwhile (gRPC 1.51,
// src/cpp/common/completion_queue_cc.cc). The reactors of this project only convert and post, so
// one thread does, and it always listens. (The end of a call, OnDone, may still come on a thread of
// gRPC's executor.) Decision 0033 has the figures.
#pragma once

namespace choir {

// Call once in `main` before anything of gRPC is used: it makes the linker take this file. The
// thread starts with the first channel or service and lives as long as the process. Cannot fail.
void UseOneCallbackThread();

}  // namespace choir
