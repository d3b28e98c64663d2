#include "common/rpc/callback_thread.h"

#include <grpc/grpc.h>
#include <grpc/support/time.h>
#include <grpcpp/completion_queue.h>
#include <pthread.h>

#include <thread>

namespace choir {
namespace {

void RunCallbacks(grpc_completion_queue* queue) {
  pthread_setname_np(pthread_self(), "choir-grpc");
  while (true) {
    const grpc_event event =
        grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), nullptr);
    if (event.type != GRPC_OP_COMPLETE) continue;
    auto* callback = static_cast<grpc_completion_queue_functor*>(event.tag);
    callback->functor_run(callback, event.success);
  }
}

}  // namespace

void UseOneCallbackThread() {}

}  // namespace choir

// The library asks these two members for the queue of all callbacks. The program's definition comes
// before the library's own, as for every function of a shared library (ELF interposition);
// callback_thread_test notices a gRPC that does not ask any more.
namespace grpc {

// Never destroyed: channels and servers come and go, also on the thread itself, which could not
// wait for its own end.
CompletionQueue* CompletionQueue::CallbackAlternativeCQ() {
  static CompletionQueue* const queue = [] {
    auto* made = new CompletionQueue;
    std::thread([made] { choir::RunCallbacks(made->cq()); }).detach();
    return made;
  }();
  return queue;
}

void CompletionQueue::ReleaseCallbackAlternativeCQ(CompletionQueue*) {}

}  // namespace grpc
