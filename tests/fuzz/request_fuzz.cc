// The public and the gateway's messages: whatever comes, the router refuses it with an error of its
// table, or sends workers sequences that they can run.
#include "choir/v1/edge.pb.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "router/rpc/convert.h"
#include "tests/fuzz/proto_mutator.h"
#include "tests/fuzz/router_world.h"

namespace choir {

const google::protobuf::Message& fuzz::Prototype() { return v1::EdgeOpen::default_instance(); }

namespace {

WorkerIdentity IdentityOf(uint32_t rank) {
  WorkerIdentity identity;
  identity.protocol_version = kProtocolVersion;
  identity.worker_id = fmt::format("g0r{}", rank);
  identity.rank = rank;
  identity.model_id = "tiny";
  identity.numerics_id = "n";
  identity.context_length = 64;
  identity.vocab_size = 302;
  return identity;
}

// One token for each sequence that runs, then its end.
void Answer(fuzz::RouterWorld* world) {
  while (!world->sequences.empty()) {
    const auto [id, worker] = *world->sequences.begin();
    world->sequences.erase(world->sequences.begin());
    StepReport step;
    step.epoch = 1;
    SequenceUpdate& update = step.updates.emplace_back();
    update.id = SequenceId(id);
    update.token_ids = {40};
    update.end = id % 3 == 0 ? SequenceEnd::kLost : SequenceEnd::kLength;
    world->core->OnWorkerStep(worker, step);
    if (id > 200) break;
  }
}

}  // namespace
}  // namespace choir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir;  // NOLINT
  static const bool kQuiet = InitLog("fuzz", "off").ok();
  CHOIR_CHECK(kQuiet);
  fuzz::RouterWorld world;
  for (size_t i = 0; i < world.workers.size(); ++i) {
    CHOIR_CHECK(
        world.core->OnWorkerHello(world.workers[i], IdentityOf(static_cast<uint32_t>(i))).ok());
    world.core->OnWorkerState(world.workers[i], {true, false, 1, ""});
  }
  for (auto& message : fuzz::ReadMessages(data, size)) {
    auto& open = static_cast<v1::EdgeOpen&>(*message);
    RequestInput input = FromProto(std::move(open));
    if (input.bearer.empty()) input.bearer = fuzz::RouterWorld::kSecret;  // else all stop at 401
    if (input.sampling.n.value_or(1) > 16) input.sampling.n = 200;        // so many only cost time
    const auto client = world.Open(std::move(input));
    Answer(&world);
  }
  world.Close();
  return 0;
}
