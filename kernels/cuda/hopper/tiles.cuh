// Which rows and outputs a block of the persistent grid computes. Found on the device, from offsets
// or counts that only it may know.
#pragma once

#include <cstdint>

#include "kernels/cuda/arch.cuh"

namespace choir::cuda {

// Rows of experts [0, experts): sorted by expert, or each expert's in a place of its own, some of
// it or all.
struct RowGroups {
  const int32_t* offsets = nullptr;  // [experts + 1], or null
  const int32_t* counts = nullptr;   // [experts], or null: expert e has rows from e * rows_each on
  int32_t rows_each = 0;
  int32_t experts = 0;

  CHOIR_DEVICE int32_t Begin(int32_t e) const {
    return offsets != nullptr ? offsets[e] : e * rows_each;
  }
  CHOIR_DEVICE int32_t Count(int32_t e) const {
    if (offsets != nullptr) return offsets[e + 1] - offsets[e];
    if (counts == nullptr) return rows_each;
    return counts[e] < rows_each ? counts[e] : rows_each;
  }
};

struct RowTile {
  int32_t expert;
  int32_t row0;  // of all rows
  int32_t rows;  // that exist, at most the tile's height
  int32_t output_tile;
};

// Every `step`-th tile from `first` on. Experts one after the other; of an expert kBand tiles of
// rows at a time, and of those all of one tile of outputs before the next. So blocks that run
// together share rows and weights, and weights come from memory once for each kBand tiles of rows.
template <int kRows>
class TileWalk {
 public:
  static constexpr int32_t kBand = 8;

  CHOIR_DEVICE TileWalk(const RowGroups& groups, int32_t output_tiles, int64_t first, int64_t step)
      : groups_(groups),
        output_tiles_(output_tiles),
        at_(static_cast<int32_t>(first)),
        step_(static_cast<int32_t>(step)) {}

  CHOIR_DEVICE bool Next(RowTile* tile) {
    for (; expert_ < groups_.experts; ++expert_) {
      const int32_t rows = groups_.Count(expert_);
      const int32_t here = (rows + kRows - 1) / kRows * output_tiles_;
      if (at_ < here) {
        const int32_t band = at_ / (kBand * output_tiles_) * kBand;
        const int32_t in_band = at_ - band * output_tiles_;
        const int32_t left = (rows + kRows - 1) / kRows - band;
        const int32_t height = left < kBand ? left : kBand;
        const int32_t row = (band + in_band % height) * kRows;
        *tile = {expert_, groups_.Begin(expert_) + row, rows - row < kRows ? rows - row : kRows,
                 in_band / height};
        at_ += step_;
        return true;
      }
      at_ -= here;
    }
    return false;
  }

 private:
  const RowGroups& groups_;
  const int32_t output_tiles_;
  int32_t at_;  // from the expert's first tile
  const int32_t step_;
  int32_t expert_ = 0;
};

}  // namespace choir::cuda
