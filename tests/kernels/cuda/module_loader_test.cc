#include "kernels/cuda/module_loader.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

std::string Fake(const char* name) {
  return std::string(CHOIR_FAKE_MODULES) + "/fake_" + name + ".so";
}

void ExpectRefused(const Status& status, absl::StatusCode code, const char* part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(part));
}

TEST(CudaModule, AModuleThatIsNotThereIsNotFoundAndSaysHowToGetOne) {
  ExpectRefused(OpenCudaModule("/nonexistent/choir_cuda.so").status(), absl::StatusCode::kNotFound,
                "CUDA toolkit");
  ExpectRefused(OpenCudaModule("/nonexistent/choir_cuda.so").status(), absl::StatusCode::kNotFound,
                "missing beside the program: /nonexistent/choir_cuda.so; copy it there");
  ExpectRefused(OpenCudaModule("").status(), absl::StatusCode::kNotFound, "no CUDA module");
}

TEST(CudaModule, AFileThatIsNoLibraryIsRefused) {
  const TempDir dir;
  const std::string path = dir.path() + "/choir_cuda.so";
  std::ofstream(path) << "not a library";
  ExpectRefused(OpenCudaModule(path).status(), absl::StatusCode::kFailedPrecondition,
                "cannot be opened");
}

TEST(CudaModule, ALibraryOfSomethingElseIsRefused) {
  ExpectRefused(OpenCudaModule(Fake("other_library")).status(),
                absl::StatusCode::kFailedPrecondition, "choir_cuda_create");
}

TEST(CudaModule, AModuleOfAnotherVersionIsRefused) {
  ExpectRefused(OpenCudaModule(Fake("other_version")).status(),
                absl::StatusCode::kFailedPrecondition, "another version");
}

TEST(CudaModule, WhatTheMachineLacksIsSaidWithItsRemedy) {
  const std::pair<const char*, const char*> cases[] = {{"no_driver", "no NVIDIA driver"},
                                                       {"old_driver", "too old"},
                                                       {"no_device", "CUDA_VISIBLE_DEVICES"},
                                                       {"no_daemon", "start nvidia-fabricmanager"},
                                                       {"mismatch", "or reboot"},
                                                       {"failed", "Xid"}};
  for (const auto& [name, words] : cases) {
    EXPECT_TRUE(OpenCudaModule(Fake(name)).ok()) << name;
    const Status status = OpenUsableCudaModule(Fake(name)).status();
    ExpectRefused(status, absl::StatusCode::kUnavailable, words);
    EXPECT_THAT(MessageOf(status), HasSubstr("a fake one"));
  }
}

TEST(CudaModule, AModuleWithAGpuIsUsable) { EXPECT_TRUE(OpenUsableCudaModule(Fake("ready")).ok()); }

TEST(CudaModule, KnowsWhichCardsItsCodeRunsOn) {
  const std::string built = "80-real, 90a-real, 100a-real";
  for (const auto& [major, minor] : {std::pair(8, 0), {8, 6}, {8, 9}, {9, 0}, {10, 0}}) {
    EXPECT_TRUE(RunsOn(built, major, minor)) << major << "." << minor;
  }
  for (const auto& [major, minor] : {std::pair(7, 5), {9, 1}, {10, 3}, {12, 0}}) {
    EXPECT_FALSE(RunsOn(built, major, minor)) << major << "." << minor;
  }
  EXPECT_FALSE(RunsOn("86-real", 8, 0));
  EXPECT_FALSE(RunsOn("", 9, 0));
}

TEST(CudaModule, SaysOfEachCardWhetherItsCodeRunsThere) {
  cuda::Module module;
  module.architectures = "90a-real";
  module.device.info = [](int32_t card, cuda::DeviceInfo* info) -> const char* {
    info->name[0] = 'H';
    info->major = 9 + card;
    return card == 2 ? "the card is lost" : nullptr;
  };
  EXPECT_EQ(UsableCard(module, 0)->major, 9);
  ExpectRefused(UsableCard(module, 1).status(), absl::StatusCode::kFailedPrecondition,
                "cuda:1 (H) has compute capability 10.0, this build is for 90a-real: build with "
                "-DCMAKE_CUDA_ARCHITECTURES=100a");
  ExpectRefused(UsableCard(module, 2).status(), absl::StatusCode::kUnavailable,
                "cuda:2: the card is lost");
}

// The module of this build: complete, and on a machine without a GPU it says what is missing.
TEST(CudaModule, TheRealOneHasEveryFunctionAndAnswersOnAnyMachine) {
  if (!std::filesystem::exists(CHOIR_REAL_MODULE)) GTEST_SKIP() << "built without nvcc";
  const auto module = OpenCudaModule(CHOIR_REAL_MODULE);
  ASSERT_TRUE(module.ok()) << module.status();
  // A table is a row of pointers behind its name: none may be null.
  const auto expect_full = [](const void* begin, size_t bytes) {
    const auto* pointers = static_cast<const void* const*>(begin);
    for (size_t i = 0; i < bytes / sizeof(void*); ++i) EXPECT_NE(pointers[i], nullptr) << i;
  };
  expect_full(&(*module)->simple, sizeof(cuda::KernelTable));
  expect_full(&(*module)->tensor, sizeof(cuda::KernelTable));
  expect_full(&(*module)->device, sizeof(cuda::DeviceTable));
  expect_full(&(*module)->nccl, sizeof(cuda::NcclTable));
  expect_full(&(*module)->cublaslt, sizeof(cuda::CublasLtTable));
  const Status usable = OpenUsableCudaModule(CHOIR_REAL_MODULE).status();
  if (usable.ok()) return;
  EXPECT_EQ(usable.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(usable), AnyOf(HasSubstr("driver"), HasSubstr("GPU")));
}

// Opened by name: where the library is missing it says so, and without a device it has no plans.
TEST(CudaModule, CublasLtIsThereOrSaysWhatIsMissing) {
  if (!std::filesystem::exists(CHOIR_REAL_MODULE)) GTEST_SKIP() << "built without nvcc";
  const auto module = OpenCudaModule(CHOIR_REAL_MODULE);
  ASSERT_TRUE(module.ok()) << module.status();
  const cuda::CublasLtTable& lt = (*module)->cublaslt;
  int32_t version = -1;
  const char* error = lt.open(&version);
  if (error == nullptr) {
    EXPECT_GE(version, 130000);
  } else {
    EXPECT_EQ(version, 0);
    EXPECT_THAT(error, AnyOf(HasSubstr("install cuBLAS"), HasSubstr("install libcublas-dev")));
  }
  if (OpenUsableCudaModule(CHOIR_REAL_MODULE).ok()) return;
  void* plan = nullptr;
  int32_t choices = 0;
  EXPECT_NE(lt.make({.m = 16, .n = 16, .k = 16}, {}, &plan, &choices), nullptr);
  EXPECT_EQ(plan, nullptr);
}

TEST(CudaModule, IsLookedForBesideTheProgram) {
  EXPECT_THAT(DefaultCudaModule(), testing::EndsWith("/bin/choir_cuda.so"));
}

}  // namespace
}  // namespace choir
