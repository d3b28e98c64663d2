// A CUDA module over emulated cards: with it beside a program, the program computes on a GPU that
// is none. CHOIR_EMULATED_CARD_FAILS_AT=N: every card fails from wait N of its streams on, and with
// CHOIR_EMULATED_CARD_HANGS_AFTER=N what follows wait N of them never ends.
// CHOIR_EMULATED_CARDS=N: the machine has so many. CHOIR_EMULATED_OLD_CARD=N: card N has compute
// capability 7.5. CHOIR_EMULATED_MAPS_REFUSED=1: the driver refuses maps of tensors.
// CHOIR_FAKE_NCCL_MISSING=1: it has no libnccl.
#include <cstdlib>

#include "kernels/cuda/module_api.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"
#include "tests/support/gpu_emulation/fake_nccl.h"

namespace {

choir::cuda::Probe ProbeSomeCards(int32_t* num_devices, char*, size_t) {
  *num_devices = std::atoi(std::getenv("CHOIR_EMULATED_CARDS"));
  return choir::cuda::Probe::kReady;
}

const char* InfoOfOldCard(int32_t device, choir::cuda::DeviceInfo* info) {
  const char* error = choir::emulation::EmulatedDevices().info(device, info);
  const char* old = std::getenv("CHOIR_EMULATED_OLD_CARD");
  if (old != nullptr && std::atoi(old) == device) info->major = 7, info->minor = 5;
  return error;
}

const char* UseCard(int32_t device) {
  choir::emulation::RefuseMaps(std::getenv("CHOIR_EMULATED_MAPS_REFUSED") != nullptr);
  return choir::emulation::EmulatedDevices().use(device);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const choir::cuda::Module* choir_cuda_create(
    uint32_t) {
  static const choir::cuda::Module module = [] {
    choir::cuda::Module made;
    made.api_version = choir::cuda::kModuleApiVersion;
    made.architectures = "90a-real";
    made.device = choir::emulation::EmulatedDevices();
    made.device.info = InfoOfOldCard;
    made.device.use = UseCard;
    made.simple = choir::emulation::EmulatedTable();
    if (std::getenv("CHOIR_EMULATED_CARDS") != nullptr) made.device.probe = ProbeSomeCards;
    made.nccl = choir::FakeNccl();
    if (std::getenv("CHOIR_FAKE_NCCL_MISSING") != nullptr) {
      choir::SetFakeNcclFaults({.open_error = "libnccl.so.2 cannot be opened: it is not there"});
    }
    made.tensor = choir::emulation::EmulatedTensorTable();
    made.hopper = choir::emulation::EmulatedHopperTable();
    if (const char* wait = std::getenv("CHOIR_EMULATED_CARD_FAILS_AT")) {
      choir::emulation::FailCardsAfter(std::atoll(wait), "uncorrectable ECC error encountered");
    }
    if (const char* wait = std::getenv("CHOIR_EMULATED_CARD_HANGS_AFTER")) {
      choir::emulation::HangCardsAfter(std::atoll(wait));
    }
    return made;
  }();
  return &module;
}
