#include "worker/engine/exact_math_variant.h"

namespace choir {

ExactLoops ChooseExactLoops() { return PortableExactLoops(); }

}  // namespace choir
