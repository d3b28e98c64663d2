// Where the parts of a local cluster keep what they keep. Any thread.
#pragma once

#include <string>

namespace choir {

// $XDG_STATE_HOME/choir, else ~/.local/state/choir, else /var/lib/choir.
std::string DefaultStateDir();

}  // namespace choir
