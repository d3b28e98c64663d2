#include "router/policy/policy_options.h"

namespace choir {

void AddPolicyOptions(PolicySettings* settings, OptionSet* options) {
  options->AddChoice(
      &settings->name,
      {.key = "policy.name",
       .flag = "--policy",
       .help = "which rank runs a request: the least loaded; the less loaded of two drawn at "
               "random (for several routers); the one that has most of its prompt cached, load "
               "considered; always the same for a user or session"},
      {"least_load", "power_of_two", "prefix_affinity", "sticky_user"});
  options->Add(&settings->imbalance_tokens_max,
               {.key = "policy.imbalance_tokens_max",
                .help = "prefix_affinity, sticky_user: a rank with so much more work than the "
                        "idlest is passed over, in prompt tokens; a running sequence counts 256"},
               0, 1'000'000'000);
  options->Add(
      &settings->index_blocks_max,
      {.key = "policy.index_blocks_max",
       .help = "prefix_affinity: ends of prompt blocks that are remembered, 56 bytes each"},
      1024, 100'000'000);
}

}  // namespace choir
