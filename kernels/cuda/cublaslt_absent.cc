// In place of cublaslt.cc where the build has no cublasLt.h.
#include "kernels/cuda/module_parts.h"

namespace choir::cuda {
namespace {

constexpr const char* kAbsent =
    "this build was made without cuBLASLt's header: install libcublas-dev, build again";

}  // namespace

void FillCublasLt(CublasLtTable* t) {
  t->open = [](int32_t* version) {
    *version = 0;
    return kAbsent;
  };
  t->make = [](const DenseShape&, const DenseOperands&, void**, int32_t*) { return kAbsent; };
  t->run = [](void*, int32_t, void*) { return kAbsent; };
  t->free = [](void*) {};
}

}  // namespace choir::cuda
