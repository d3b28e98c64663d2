// NCCL between emulated cards, of ranks that are threads or processes: a message is a file, taken
// by its receiver. Transfers are work of an emulated stream, so they move when somebody waits for
// it, touch the memory of the card only then, and a send ends when it was received. Faults are set
// for all communicators that are made afterwards in this process.
#pragma once

#include <cstdint>

#include "kernels/cuda/nccl_table.h"

namespace choir {

struct FakeNcclFaults {
  int32_t version = 22809;
  int32_t other_version = 0;  // of every second time that it is asked for; 0: the same
  const char* open_error = nullptr;
  int32_t failing_rank = -1;       // its communicator fails once it has sent or received
  int32_t failing_after = 0;       // but not before so many groups
  int32_t unconnected_rank = -1;   // never becomes ready, so nobody does
  int32_t silent_rank = -1;        // sends nothing, as one whose device hangs
  int32_t silent_after = 0;        // but so many groups before
  int32_t plain_card = -1;         // has no symmetric memory; -2: none has
  int32_t unregistered_rank = -1;  // cannot register a window
};

const cuda::NcclTable& FakeNccl();
void SetFakeNcclFaults(const FakeNcclFaults& faults);
int64_t FakeNcclWindows();  // registered, of communicators that live
int64_t FakeNcclHandles();  // communicators that are not yet given back

}  // namespace choir
