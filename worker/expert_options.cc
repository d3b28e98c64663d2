#include "worker/expert_options.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "worker/model/host_experts.h"

namespace choir {
namespace {

void AddPlacementOptions(OptionSet* options, WorkerConfig* c) {
  options->Add(
      &c->redundant_experts,
      {.key = "redundant_experts",
       .flag = "--redundant-experts",
       .help =
           "experts of each layer that this rank may hold beyond an even share: "
           "copies of busy ones, moved as the load asks, each with the memory of its weights; 0: "
           "experts stay where they are. The same on all ranks of a group"},
      0, 4096);
  options->Add(&c->expert_cover,
               {.key = "expert_cover",
                .flag = "--expert-cover",
                .help = "use --redundant-experts for second copies first, so that every expert "
                        "is on two ranks where there is room"});
  options->Add(&c->placement_steps,
               {.key = "placement_steps",
                .flag = "--placement-steps",
                .help = "steps between two looks at the load of experts, at least"},
               1, 1 << 20);
}

void AddCpuExpertOptions(OptionSet* options, WorkerConfig* c) {
  options->Add(&c->cpu_experts,
               {.key = "cpu_experts",
                .flag = "--cpu-experts",
                .help = "experts of each layer that this rank leaves to the CPU, with --device "
                        "cuda; auto: those that do not fit the GPU. The same on all ranks of a "
                        "group"});
  options->Add(&c->expert_hotness,
               {.key = "expert_hotness",
                .flag = "--expert-hotness",
                .help = "file that a worker wrote to its --expert-counts: --cpu-experts are those "
                        "with fewest rows. Repeat it for every rank; they add up. The same on all "
                        "ranks of a group [the last experts of a rank]"});
  options->Add(&c->expert_counts,
               {.key = "expert_counts",
                .flag = "--expert-counts",
                .help = "directory, which is there, where this worker leaves what its experts "
                        "computed when it ends, as gGROUPrRANK.json; empty: nowhere"});
}

void AddRowOptions(OptionSet* options, WorkerConfig* c) {
  options->AddChoice(
      &c->device_exchange,
      {.key = "device_exchange",
       .flag = "--device-exchange",
       .help =
           "how rows of experts get from the GPU of one rank to that of another; nccl: straight, "
           "or no epoch is formed; host: through the memory of the hosts; auto: by NCCL if every "
           "rank can and has a GPU of its own, else by the hosts"},
      {"auto", "nccl", "host"});
  options->Add(&c->f8_rows,
               {.key = "f8_rows",
                .flag = "--f8-rows",
                .help = "rows go to experts, and between GPUs, as f8 with a scale for 128 columns, "
                        "and experts multiply f8 by f8: half the bytes, Hopper's rate of f8, other "
                        "bits (in the numerics id); of models whose experts are f8, in bf16, on "
                        "GPUs. The same on all ranks of a group"});
  options->Add(&c->slot_rows,
               {.key = "slot_rows",
                .flag = "--slot-rows",
                .help = "steps in which no rank has more rows send them by NCCL in slots of equal "
                        "size, of which nobody has to be told first: more bytes, one wait less a "
                        "layer; 0: never; no effect where rows go otherwise than by NCCL. The same "
                        "on all ranks of a group"},
               0, 4096);
  options->AddBytes(
      &c->slot_output_bytes,
      {.key = "slot_output_bytes",
       .flag = "--slot-output-bytes",
       .help = "of steps that go in slots: where a rank has no more bytes of outputs to send a "
               "layer, counted for the worst choices, they go in slots, too, and the step waits "
               "for no host between its layers; 0: never, nor with --cpu-experts. The same on all "
               "ranks of a group"},
      0, uint64_t{1} << 40);
  options->Add(&c->micro_batch_rows,
               {.key = "micro_batch_rows",
                .flag = "--micro-batch-rows",
                .help = "steps in which a rank has so many rows or more are computed as two "
                        "micro-batches: rows of one travel by NCCL while the other computes; takes "
                        "memory of the GPU, changes no bits; more than --slot-rows, 0: never; no "
                        "effect where rows go otherwise than by NCCL. The same on all ranks of a "
                        "group"},
               0, 65536);
}

Status CheckMicroBatchRows(const WorkerConfig& c) {
  if (c.micro_batch_rows > c.step_tokens) {
    return InvalidArgument(
        "--micro-batch-rows {}: no step has more than {} rows (--step-tokens); give no more than "
        "that, or 0",
        c.micro_batch_rows, c.step_tokens);
  }
  if (c.micro_batch_rows == 0 || c.micro_batch_rows > c.slot_rows) return absl::OkStatus();
  return InvalidArgument(
      "--micro-batch-rows {}: steps of up to {} rows (--slot-rows) go in slots and in one piece; "
      "give more than that, or 0",
      c.micro_batch_rows, c.slot_rows);
}

Status CheckDeviceExchange(const WorkerConfig& c) {
  if (c.device_exchange != "nccl" || c.device != "cpu") return absl::OkStatus();
  return InvalidArgument(
      "--device-exchange nccl: goes from GPU to GPU, and --device is cpu; give --device cuda");
}

Status CheckF8Rows(const WorkerConfig& c) {
  if (!c.f8_rows || c.device != "cpu") return absl::OkStatus();
  return InvalidArgument(
      "--f8-rows: is for experts on a GPU, and --device is cpu; give --device cuda, or leave it "
      "out");
}

Status CheckCpuExperts(const WorkerConfig& c) {
  if (CpuExpertsOf(c) == 0) {
    if (c.expert_hotness.empty()) return absl::OkStatus();
    return InvalidArgument(
        "--expert-hotness: says which experts the CPU computes, give --cpu-experts, too");
  }
  if (c.device == "cpu") {
    return InvalidArgument(
        "--cpu-experts {}: with --device cpu the CPU computes all experts, leave it out",
        c.cpu_experts);
  }
  return absl::OkStatus();
}

// What is no number has no other fault.
Status CheckCpuExpertsOfSection(const WorkerConfig& c) {
  if (c.cpu_experts != "auto" && !ParseInteger(c.cpu_experts, 0, kGateExpertsMax).ok()) {
    return InvalidArgument("--cpu-experts {}: must be auto, or a number from 0 to {}",
                           c.cpu_experts, kGateExpertsMax);
  }
  if (CpuExpertsOf(c) == 0 || c.redundant_experts == 0) return absl::OkStatus();
  return InvalidArgument(
      "--cpu-experts {}: experts that move would have other bits on the CPU than on the GPU, leave "
      "out --redundant-experts",
      c.cpu_experts);
}

Status CheckPlacement(const WorkerConfig& c) {
  if (c.redundant_experts > 0 && c.ranks == 1) {
    return InvalidArgument("--redundant-experts {}: one rank holds all experts, leave it out",
                           c.redundant_experts);
  }
  if (c.expert_cover && c.redundant_experts == 0) {
    return InvalidArgument("--expert-cover: second copies need room, give --redundant-experts");
  }
  return absl::OkStatus();
}

}  // namespace

void AddExpertOptions(OptionSet* options, WorkerConfig* config) {
  AddPlacementOptions(options, config);
  AddCpuExpertOptions(options, config);
  AddRowOptions(options, config);
  options->AddSectionCheck([config] { return CheckDeviceExchange(*config); });
  options->AddSectionCheck([config] { return CheckF8Rows(*config); });
  options->AddSectionCheck([config] { return CheckMicroBatchRows(*config); });
  options->AddSectionCheck([config] { return CheckCpuExpertsOfSection(*config); });
  options->AddStartCheck([config] { return CheckExpertCountsFolder(*config); });
}

Status CheckExpertOptions(const WorkerConfig& config) {
  CHOIR_RETURN_IF_ERROR(CheckPlacement(config));
  return CheckCpuExperts(config);
}

Status CheckExpertCountsFolder(const WorkerConfig& config) {
  const std::string& folder = config.expert_counts;
  if (folder.empty()) return absl::OkStatus();
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    return InvalidArgument("--expert-counts {}: there is no such directory; make it, or name one",
                           folder);
  }
  if (access(folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
  return InvalidArgument(
      "--expert-counts {}: this user cannot write into it; change who may, or name another",
      folder);
}

int64_t CpuExpertsOf(const WorkerConfig& config) {
  if (config.cpu_experts == "auto") return HostExpertOptions::kWhatDoesNotFit;
  return std::atoll(config.cpu_experts.c_str());
}

SlotOptions SlotOptionsOf(const WorkerConfig& config) {
  return {.rows = config.slot_rows,
          .output_bytes = CpuExpertsOf(config) == 0 ? config.slot_output_bytes : 0};
}

std::string PlacementOf(const WorkerConfig& config) {
  return fmt::format("{}{} every {} steps", config.redundant_experts,
                     config.expert_cover ? " with cover" : "", config.placement_steps);
}

}  // namespace choir
