// Finds numbers that are none in weights: one would make every token of every request NaN
// (docs/decisions/0011).
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/status.h"
#include "worker/model/files/weight_files.h"

namespace choir {

// The first of elements [begin, end) that is NaN or infinite; -1: none is. Dtypes without such
// numbers have none.
int64_t FindNotFinite(const std::byte* data, DType dtype, int64_t begin, int64_t end);

Status NotFiniteError(const StoredTensor& tensor, int64_t element);

}  // namespace choir
