// A CUDA module over emulated cards: with it beside a program, the program computes on a GPU that
// is none. CHOIR_EMULATED_CARD_FAILS_AT=N: every card fails from wait N of its streams on.
#include <cstdlib>

#include "kernels/cuda/module_api.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"

extern "C" __attribute__((visibility("default"))) const choir::cuda::Module* choir_cuda_create(
    uint32_t) {
  static const choir::cuda::Module module = [] {
    choir::cuda::Module made;
    made.api_version = choir::cuda::kModuleApiVersion;
    made.architectures = "90a-real";
    made.device = choir::emulation::EmulatedDevices();
    made.simple = choir::emulation::EmulatedTable();
    made.tensor = choir::emulation::EmulatedTensorTable();
    if (const char* wait = std::getenv("CHOIR_EMULATED_CARD_FAILS_AT")) {
      choir::emulation::FailCardsAfter(std::atoll(wait), "uncorrectable ECC error encountered");
    }
    return made;
  }();
  return &module;
}
