// Steps of few rows whose rows and choices every rank has, in equal slots, one after the other by
// source rank: each finds by itself which pairs (token, choice) are its own, and puts the outputs
// where an exchange of equal parts takes them from.
#pragma once

#include <cstdint>

#include "common/tensor/tensor_view.h"

namespace choir {

// As ExchangePlan (worker/comm/exchange_plan.h) shares rows out: of an expert with n copies, source
// s sends its i-th pair to copy (s + i) mod n.
struct PlaceChoicesArgs {
  TensorView expert_ids;  // [S * T, top_k] i32: source s has T rows; ids outside [0, E): nobody's
  TensorView copies;      // [E + 1] i32: expert e has copies[e] .. copies[e + 1] of the next two
  TensorView copy_rank;   // [C] i32
  TensorView copy_slot;   // [C] i32: which of that rank's experts it is
  int32_t sources = 1;
  int32_t self = 0;    // this rank, which is a source
  TensorView slot_of;  // out: [S * T, top_k] i32: the expert here that has the pair; -1: none
  TensorView row_of;   // out: [T * top_k] i32: own pair p comes back in row rank * T * top_k + p
  int64_t Flops() const { return 0; }
  int64_t Bytes() const { return 2 * static_cast<int64_t>(expert_ids.num_bytes()); }
};

// y[p] = x[row_of[p]]; rows of y whose row_of is negative stay as they are.
struct GatherRowsArgs {
  TensorView x;       // [R, H] f32
  TensorView row_of;  // [P] i32
  TensorView y;       // [P, H] f32
  int64_t Flops() const { return 0; }
  int64_t Bytes() const { return static_cast<int64_t>(row_of.num_bytes() + 2 * y.num_bytes()); }
};

}  // namespace choir
