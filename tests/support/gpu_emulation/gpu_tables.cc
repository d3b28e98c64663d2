#include "tests/support/gpu_emulation/gpu_tables.h"

#include <cstring>
#include <new>

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

// Null where the machine has no GPU, or the build no module.
const cuda::Module* GpuModule() {
  static const cuda::Module* const module = [] {
    const auto opened = OpenUsableCudaModule(DefaultCudaModule());
    return opened.ok() ? *opened : nullptr;
  }();
  return module;
}

// Runs the op on the legacy stream and waits for it.
template <auto table, auto op, class Args>
void RunAndWait(const Args& args, const KernelStream& stream) {
  ((GpuModule()->*table).*op)(args, {.native = nullptr, .workspace = stream.workspace});
  const char* error = GpuModule()->device.wait_stream(nullptr);
  if (error == nullptr) error = GpuModule()->device.poll();
  if (error != nullptr) internal::CheckFailed(__FILE__, __LINE__, error);
}

template <auto table>
KernelTable WaitingTable() {
  KernelTable t;
  t.name = (GpuModule()->*table).name;
  t.embedding = RunAndWait<table, &KernelTable::embedding, EmbeddingArgs>;
  t.linear = RunAndWait<table, &KernelTable::linear, LinearArgs>;
  t.head_project = RunAndWait<table, &KernelTable::head_project, HeadProjectArgs>;
  t.rms_norm = RunAndWait<table, &KernelTable::rms_norm, RmsNormArgs>;
  t.rope = RunAndWait<table, &KernelTable::rope, RopeArgs>;
  t.swi_glu = RunAndWait<table, &KernelTable::swi_glu, SwiGluArgs>;
  t.store_kv = RunAndWait<table, &KernelTable::store_kv, StoreKvArgs>;
  t.paged_attention = RunAndWait<table, &KernelTable::paged_attention, PagedAttentionArgs>;
  t.mla_attention = RunAndWait<table, &KernelTable::mla_attention, MlaAttentionArgs>;
  t.gate_top_k = RunAndWait<table, &KernelTable::gate_top_k, GateTopKArgs>;
  t.expert_ffn = RunAndWait<table, &KernelTable::expert_ffn, ExpertFfnArgs>;
  t.combine = RunAndWait<table, &KernelTable::combine, CombineArgs>;
  t.permute = RunAndWait<table, &KernelTable::permute, PermuteArgs>;
  t.unpermute = RunAndWait<table, &KernelTable::unpermute, UnpermuteArgs>;
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
  return names;
}

const KernelTable& GpuTable(const std::string& name) {
  if (name == "gpu_emulated") return emulation::EmulatedTable();
  if (name == "gpu_tensor_emulated") return emulation::EmulatedTensorTable();
  CHOIR_CHECK(GpuModule() != nullptr);
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
  const bool tensor = table.find("tensor") != std::string::npos;
  made.kernels = emulated ? MakeTableKernels(GpuTable(table))
                          : MakeTableKernels(tensor ? GpuModule()->tensor : GpuModule()->simple);
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
