// place_choices and gather_rows: what a rank does by itself in a step whose rows all ranks have.
// Shapes   kernels/ops/slots.h: ids [S*T,K], y [P,H] f32.
// Bound    launches: some hundred pairs, and the rows of those that are this rank's once.
// Plan     a block a source, a thread a pair: of an expert with copies it counts the pairs of the
//          same source and expert before it, so no order of threads matters. Gather: a block a
//          pair.
// Oracle   kernels/reference/gpu_ops.cc, tests/contract/kernels/slots_test.cc.
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/ops/slots.h"

namespace choir::cuda {

struct PlaceChoicesKernel {
  const int32_t* ids;
  const int32_t* copies;
  const int32_t* copy_rank;
  const int32_t* copy_slot;
  int32_t* slot_of;
  int32_t* row_of;
  int64_t pairs;  // of a source
  int32_t experts, self;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const auto source = static_cast<int32_t>(block.x());
    const int32_t* of_source = ids + source * pairs;
    for (int64_t p = block.thread(); p < pairs; p += block.threads()) {
      const int32_t copy = CopyOf(of_source, p, source);
      const int32_t rank = copy < 0 ? -1 : copy_rank[copy];
      slot_of[source * pairs + p] = rank == self ? copy_slot[copy] : -1;
      if (source != self) continue;
      row_of[p] = rank < 0 ? -1 : static_cast<int32_t>(rank * pairs + p);
    }
  }

 private:
  CHOIR_DEVICE int32_t CopyOf(const int32_t* of_source, int64_t pair, int32_t source) const {
    const int32_t expert = of_source[pair];
    if (expert < 0 || expert >= experts) return -1;
    const int32_t first = copies[expert];
    const int32_t count = copies[expert + 1] - first;
    if (count == 1) return first;
    int32_t turn = source;
    for (int64_t p = 0; p < pair; ++p) turn += of_source[p] == expert;
    return first + turn % count;
  }
};

struct GatherRowsKernel {
  const float* x;
  const int32_t* row_of;
  float* y;
  int64_t width;

  template <class Block>
  CHOIR_DEVICE void operator()(Block& block) const {
    const int64_t row = row_of[block.x()];
    if (row < 0) return;
    for (int64_t i = block.thread(); i < width; i += block.threads()) {
      y[block.x() * width + i] = x[row * width + i];
    }
  }
};

template <class Runner>
void PlaceChoices(const PlaceChoicesArgs& a, const Runner& run) {
  CHOIR_CHECK(a.sources > 0 && a.self >= 0 && a.self < a.sources);
  const int64_t pairs = a.expert_ids.num_elements() / a.sources;
  CHOIR_CHECK(pairs * a.sources == a.expert_ids.num_elements() && a.row_of.num_elements() == pairs);
  CHOIR_CHECK(a.slot_of.num_elements() == a.expert_ids.num_elements());
  run({.x = a.sources, .threads = 128},
      PlaceChoicesKernel{.ids = a.expert_ids.template data<int32_t>(),
                         .copies = a.copies.template data<int32_t>(),
                         .copy_rank = a.copy_rank.template data<int32_t>(),
                         .copy_slot = a.copy_slot.template data<int32_t>(),
                         .slot_of = a.slot_of.template data<int32_t>(),
                         .row_of = a.row_of.template data<int32_t>(),
                         .pairs = pairs,
                         .experts = static_cast<int32_t>(a.copies.dim(0) - 1),
                         .self = a.self});
}

template <class Runner>
void GatherRows(const GatherRowsArgs& a, const Runner& run) {
  CHOIR_CHECK(a.row_of.num_elements() == a.y.dim(0) && a.x.dim(1) == a.y.dim(1));
  run({.x = a.y.dim(0), .threads = 256},
      GatherRowsKernel{.x = a.x.f32(),
                       .row_of = a.row_of.template data<int32_t>(),
                       .y = a.y.f32(),
                       .width = a.y.dim(1)});
}

}  // namespace choir::cuda
