// The options of the router's section `policy`.
#pragma once

#include "common/config/options.h"
#include "router/policy/policy.h"

namespace choir {

// `settings` outlives the options and is filled in when they are parsed.
void AddPolicyOptions(PolicySettings* settings, OptionSet* options);

}  // namespace choir
