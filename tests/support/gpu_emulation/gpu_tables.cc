#include "tests/support/gpu_emulation/gpu_tables.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

#include "common/base/check.h"
#include "kernels/cuda/module_loader.h"
#include "kernels/cuda/table_kernels.h"
#include "tests/support/gpu_emulation/emulated_device.h"
#include "tests/support/gpu_emulation/emulated_kernels.h"
#include "tests/support/gpu_emulation/gpu_ranks.h"
#include "worker/device/table_device.h"

namespace choir {
namespace {

using cuda::KernelStream;
using cuda::KernelTable;

constexpr std::align_val_t kAlign{256};

// Null where the machine has no GPU, or the build no module. CHOIR_TEST_GPU_EARLY_STARTS=0: kernels
// start one after the other.
const cuda::Module* GpuModule() {
  static const cuda::Module* const module = [] {
    const auto opened = OpenUsableCudaModule(DefaultCudaModule());
    if (!opened.ok()) return static_cast<const cuda::Module*>(nullptr);
    const char* early = std::getenv("CHOIR_TEST_GPU_EARLY_STARTS");
    (*opened)->device.allow_early_starts(early == nullptr || std::string_view(early) != "0");
    return *opened;
  }();
  return module;
}

// CHOIR_TEST_GPU_HOPPER=0: a card that the kernels for Hopper break is tested with the others.
bool GpuIsHopper() {
  const char* wanted = std::getenv("CHOIR_TEST_GPU_HOPPER");
  if (wanted != nullptr && std::string_view(wanted) == "0") return false;
  if (GpuModule() == nullptr || GpuModule()->hopper.name == nullptr) return false;
  cuda::DeviceInfo info;
  return GpuModule()->device.info(0, &info) == nullptr && info.major == 9 && info.minor == 0;
}

// Runs the op on the legacy stream and waits for it.
template <auto table, auto op, class Args>
void RunAndWait(const Args& args, const KernelStream& stream) {
  ((GpuModule()->*table).*op)(args, {.native = nullptr, .workspace = stream.workspace});
  const char* error = GpuModule()->device.wait_stream(nullptr);
  if (error == nullptr) error = GpuModule()->device.poll();
  if (error != nullptr) internal::CheckFailed(__FILE__, __LINE__, error);
}

// An op that is new in the table is to be added here too.
static_assert(sizeof(KernelTable) == (1 + 23) * sizeof(void*));

template <auto table>
KernelTable WaitingTable() {
  KernelTable t;
  t.name = (GpuModule()->*table).name;
  t.order_of_rows = (GpuModule()->*table).order_of_rows;
  t.embedding = RunAndWait<table, &KernelTable::embedding, EmbeddingArgs>;
  t.linear = RunAndWait<table, &KernelTable::linear, LinearArgs>;
  t.merged_linear = RunAndWait<table, &KernelTable::merged_linear, MergedLinearArgs>;
  t.head_project = RunAndWait<table, &KernelTable::head_project, HeadProjectArgs>;
  t.rms_norm = RunAndWait<table, &KernelTable::rms_norm, RmsNormArgs>;
  t.rope = RunAndWait<table, &KernelTable::rope, RopeArgs>;
  t.swi_glu = RunAndWait<table, &KernelTable::swi_glu, SwiGluArgs>;
  t.store_kv = RunAndWait<table, &KernelTable::store_kv, StoreKvArgs>;
  t.store_latent = RunAndWait<table, &KernelTable::store_latent, StoreLatentArgs>;
  t.paged_attention = RunAndWait<table, &KernelTable::paged_attention, PagedAttentionArgs>;
  t.mla_attention = RunAndWait<table, &KernelTable::mla_attention, MlaAttentionArgs>;
  t.gate_top_k = RunAndWait<table, &KernelTable::gate_top_k, GateTopKArgs>;
  t.expert_ffn = RunAndWait<table, &KernelTable::expert_ffn, ExpertFfnArgs>;
  t.combine = RunAndWait<table, &KernelTable::combine, CombineArgs>;
  t.permute = RunAndWait<table, &KernelTable::permute, PermuteArgs>;
  t.unpermute = RunAndWait<table, &KernelTable::unpermute, UnpermuteArgs>;
  t.place_choices = RunAndWait<table, &KernelTable::place_choices, PlaceChoicesArgs>;
  t.gather_rows = RunAndWait<table, &KernelTable::gather_rows, GatherRowsArgs>;
  t.grouped_gemm = RunAndWait<table, &KernelTable::grouped_gemm, GroupedGemmArgs>;
  t.quantize_f8 = RunAndWait<table, &KernelTable::quantize_f8, QuantizeF8Args>;
  t.dequantize = RunAndWait<table, &KernelTable::dequantize, DequantizeArgs>;
  t.sample = RunAndWait<table, &KernelTable::sample, SampleArgs>;
  return t;
}

}  // namespace

std::vector<std::string> GpuTableNames() {
  std::vector<std::string> names = {"gpu_emulated", "gpu_tensor_emulated"};
  if (GpuModule() != nullptr) names.insert(names.end(), {"gpu", "gpu_tensor"});
  if (GpuIsHopper()) names.push_back("gpu_hopper");
  return names;
}

std::vector<std::string> HopperTableNames() {
  std::vector<std::string> names = {"gpu_hopper_emulated"};
  if (GpuIsHopper()) names.push_back("gpu_hopper");
  return names;
}

std::vector<std::string> SimpleTableNames() {
  std::vector<std::string> names = {"gpu_emulated"};
  if (GpuModule() != nullptr) names.emplace_back("gpu");
  return names;
}

std::vector<std::string> EmulatedAndCards(const std::string& emulated) {
  std::vector<std::string> names = {emulated};
  if (GpuModule() != nullptr) names.push_back(GpuTableNames().back());
  return names;
}

const KernelTable& GpuTable(const std::string& name) {
  if (name == "gpu_emulated") return emulation::EmulatedTable();
  if (name == "gpu_tensor_emulated") return emulation::EmulatedTensorTable();
  if (name == "gpu_hopper_emulated") return emulation::EmulatedHopperTable();
  CHOIR_CHECK(GpuModule() != nullptr);
  if (name == "gpu_hopper") {
    static const KernelTable hopper = WaitingTable<&cuda::Module::hopper>();
    return hopper;
  }
  if (name == "gpu_tensor") {
    static const KernelTable tensor = WaitingTable<&cuda::Module::tensor>();
    return tensor;
  }
  CHOIR_CHECK(name == "gpu");
  static const KernelTable simple = WaitingTable<&cuda::Module::simple>();
  return simple;
}

GpuRank MakeGpuRank(const std::string& table, int rank) {
  GpuRank made;
  const bool emulated = table.ends_with("_emulated");
  StatusOr<std::unique_ptr<Device>> device =
      emulated ? MakeTableDevice(emulation::EmulatedDevices(), rank)
               : MakeTableDevice(GpuModule()->device, 0);
  CHOIR_CHECK(device.ok());
  made.device = std::move(device).value();
  // Without the waits of GpuTable: a device's stream is in order.
  if (emulated) {
    made.kernels = MakeTableKernels(GpuTable(table));
    return made;
  }
  const cuda::Module& module = *GpuModule();
  made.kernels = MakeTableKernels(table == "gpu_hopper"   ? module.hopper
                                  : table == "gpu_tensor" ? module.tensor
                                                          : module.simple);
  return made;
}

std::shared_ptr<std::byte> TestBytes(size_t bytes) {
  void* memory = nullptr;
  if (GpuModule() != nullptr) {
    const cuda::DeviceTable& device = GpuModule()->device;
    CHOIR_CHECK(device.allocate_managed(bytes + 1, &memory) == nullptr);
    std::memset(memory, 0, bytes);
    return {static_cast<std::byte*>(memory), device.free};
  }
  memory = ::operator new(bytes, kAlign);
  std::memset(memory, 0, bytes);
  return {static_cast<std::byte*>(memory), [](std::byte* p) { ::operator delete(p, kAlign); }};
}

}  // namespace choir
