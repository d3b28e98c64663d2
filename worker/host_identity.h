// Which host this process is on, for the ranks of its group.
#pragma once

#include <string>

namespace choir {

// Equal for processes that can map each other's memory and see each other's process ids. One
// network, too: what is apart in that is run as if it were on two machines, and may be meant so.
// Any thread.
std::string HostIdentity();
// Equal for processes of one machine, in whatever containers: they may see the same cards.
std::string MachineIdentity();

}  // namespace choir
