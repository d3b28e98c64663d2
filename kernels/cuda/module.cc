// The one door of choir_cuda.so.
#include "kernels/cuda/module_api.h"
#include "kernels/cuda/module_parts.h"

namespace choir::cuda {
namespace {

Module MakeModule() {
  Module m;
  m.api_version = kModuleApiVersion;
  m.architectures = CHOIR_CUDA_ARCHITECTURES;  // by the build
  FillDevice(&m.device);
  FillNccl(&m.nccl);
  FillCublasLt(&m.cublaslt);
  m.simple.name = "cuda-simple";
  FillSimpleRows(&m.simple);
  FillSimpleProducts(&m.simple);
  FillSimpleChoices(&m.simple);
  m.tensor = m.simple;
  m.tensor.name = "cuda-tensor3";  // the number rises with every change of its bits
  FillTensorProducts(&m.tensor);
  FillTensorAttention(&m.tensor);
  FillTensorChoices(&m.tensor);
  FillTensorRows(&m.tensor);
  m.hopper = m.tensor;
  m.hopper.name = nullptr;
  FillHopperProducts(&m.hopper);
  return m;
}

}  // namespace
}  // namespace choir::cuda

extern "C" __attribute__((visibility("default"))) const choir::cuda::Module* choir_cuda_create(
    uint32_t api_version) {
  if (api_version != choir::cuda::kModuleApiVersion) return nullptr;
  static const choir::cuda::Module module = choir::cuda::MakeModule();
  return &module;
}
