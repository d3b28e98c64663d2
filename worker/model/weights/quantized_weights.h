// Finds matrices in whichever format their files have: plain floats, block FP8 or MXFP4, with their
// scales checked. What cannot be is kept in the store's status. One thread while loading.
#pragma once

#include <string>
#include <vector>

#include "worker/model/config/quant_config.h"
#include "worker/model/weights/model_weights.h"
#include "worker/model/weights/weight_store.h"

namespace choir {

struct ExpertRange {
  int64_t begin = 0, end = 0;                  // whose weights are read and converted now
  const std::vector<bool>* without = nullptr;  // by expert; null: no exceptions
  bool Has(int64_t expert) const {
    return expert >= begin && expert < end &&
           (without == nullptr || !(*without)[static_cast<size_t>(expert)]);
  }
};

struct ScaledMatrix {
  TensorView w, scale;  // as LinearArgs
};

class QuantizedWeights {
 public:
  QuantizedWeights(const QuantConfig& quant, WeightStore* store) : quant_(quant), store_(*store) {}

  // MODULE.weight, and MODULE.weight_scale_inv where it is FP8. keep as in WeightStore::Matrix.
  ScaledMatrix Matrix(const std::string& module, int64_t out, int64_t in, bool keep = true);
  // The same with its scales multiplied in, for ops that know plain floats only.
  TensorView Multiplied(const std::string& module, int64_t out, int64_t in);

  // The experts of one layer in one tensor, a matrix of each. NAME [experts, in, out] of plain
  // floats, or NAME_blocks and NAME_scales [experts, out, in / 32, ...] of MXFP4.
  struct Stacked {
    std::string name;
    int64_t experts = 0, out = 0, in = 0;
    ExpertRange own;
  };
  bool IsMxfp4(const Stacked& s) const;
  std::vector<ScaledMatrix> Experts(const Stacked& s);     // [in, out], or [out, in] of MXFP4
  std::vector<TensorView> ExpertBiases(const Stacked& s);  // NAME_bias: [out] each

 private:
  const StoredTensor* F8Scale(const std::string& name, int64_t out, int64_t in);
  bool CheckMeant(const std::string& module);

  const QuantConfig& quant_;
  WeightStore& store_;
};

}  // namespace choir
