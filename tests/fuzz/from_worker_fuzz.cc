// The router's end of a worker's stream: whatever a worker sends, clients get only tokens of the
// vocabulary and one end, and the router's books balance.
#include "choir/v1/worker.pb.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "router/rpc/convert.h"
#include "tests/fuzz/proto_mutator.h"
#include "tests/fuzz/router_world.h"

namespace choir {

const google::protobuf::Message& fuzz::Prototype() { return v1::FromWorker::default_instance(); }

namespace {

RequestInput Ask(uint32_t n, bool logprobs) {
  RequestInput input;
  input.bearer = fuzz::RouterWorld::kSecret;
  input.model = "tiny";
  input.content = PromptIds{{1, 9, 30}};
  input.sampling.n = n;
  input.sampling.stop = {"ab"};
  if (logprobs) input.sampling.logprobs = 2;
  return input;
}

}  // namespace
}  // namespace choir

// The first worker is greeted and ready before; the second has to say everything itself.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir;  // NOLINT
  static const bool kQuiet = InitLog("fuzz", "off").ok();
  CHOIR_CHECK(kQuiet);
  fuzz::RouterWorld world;
  WorkerIdentity identity;
  identity.protocol_version = kProtocolVersion;
  identity.worker_id = "g0r0";
  identity.model_id = "tiny";
  identity.numerics_id = "n";
  identity.context_length = 64;
  identity.vocab_size = 302;
  CHOIR_CHECK(world.core->OnWorkerHello(world.workers[0], identity).ok());
  world.core->OnWorkerState(world.workers[0], {true, false, 1, ""});
  world.Open(Ask(2, true));
  bool greeted[2] = {true, false};
  size_t turn = 0;
  for (const auto& m : fuzz::ReadMessages(data, size)) {
    const auto& message = static_cast<const v1::FromWorker&>(*m);
    const size_t which = turn++ % 4 == 3 ? 1 : 0;
    const WorkerIndex worker = world.workers[which];
    if (world.cut.erase(worker) > 0) {  // as its link does: the stream ends and comes anew
      world.core->OnWorkerLost(worker, "cut");
      world.core->OnWorkerConnecting(worker, turn);
      greeted[which] = false;
    }
    if (message.has_hello()) {
      greeted[which] = world.core->OnWorkerHello(worker, FromProto(message.hello())).ok();
    }
    if (!greeted[which]) continue;
    if (message.has_state()) world.core->OnWorkerState(worker, FromProto(message.state()));
    if (message.has_step()) world.core->OnWorkerStep(worker, FromProto(message.step()));
    if (turn % 5 == 0) world.Open(Ask(1, false));
    if (turn % 6 == 0) world.clock.now += std::chrono::seconds(2);
    world.core->OnTimer();
  }
  world.Close();
  return 0;
}
