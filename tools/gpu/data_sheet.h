// What data sheets promise of a card, for figures that ask for a share of that. What a card does at
// its own clocks is measured (limits.h).
#pragma once

#include <cstdint>
#include <string_view>

namespace choir::gpu {

struct DataSheet {
  const char* name;    // as the driver has it
  int64_t processors;  // of the whole card; a part of one has no data sheet
  double f8_tflops;    // dense: half of what stands there for sparse matrices
};

// NVIDIA's data sheets of the H100 (3,958 TFLOPS sparse as SXM, 3,026 as PCIe) and H200 (3,958 as
// SXM); an H800 computes as an H100.
inline constexpr DataSheet kDataSheets[] = {
    {"NVIDIA H100 80GB HBM3", 132, 1979},
    {"NVIDIA H100 PCIe", 114, 1513},
    {"NVIDIA H200", 132, 1979},
    {"NVIDIA H800", 132, 1979},
};

// Null: none is known here.
inline const DataSheet* DataSheetOf(std::string_view name, int64_t processors) {
  for (const DataSheet& sheet : kDataSheets) {
    if (name == sheet.name && processors == sheet.processors) return &sheet;
  }
  return nullptr;
}

}  // namespace choir::gpu
