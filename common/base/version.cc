#include "common/base/version.h"

namespace choir {
const char kVersion[] = CHOIR_VERSION;
}  // namespace choir
