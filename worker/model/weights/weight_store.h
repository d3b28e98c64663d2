// Hands out checked views of a model's tensors: from the mapped file where that is what kernels can
// use, else converted once into own memory. Keeps the first problem, as ConfigReader does. One
// thread while loading; what it gave out is read-only and lives as long as the store.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/runtime/thread_team.h"
#include "common/tensor/tensor_view.h"
#include "worker/model/files/weight_files.h"
#include "worker/model/weights/host_buffer.h"

namespace choir {

// A matrix [rows, width] inside a tensor, `first_byte` from its begin.
struct TensorPart {
  const StoredTensor* tensor = nullptr;
  DType dtype = DType::kF32;  // kF4E2M1 inside a tensor of U8
  int64_t rows = 0, width = 0;
  int64_t first_byte = 0;
  const float* f8_scale = nullptr;  // of kF8E4M3 that is converted: LinearArgs::w_scale

  int64_t bytes() const { return BytesOf(dtype, rows * width); }
};

// Threads that read and convert weights.
inline int LoadThreads() {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
}

class WeightStore {
 public:
  // `matrix_dtype`: what matrices are converted to; empty: they stay as they are.
  WeightStore(std::shared_ptr<const WeightFiles> files, std::optional<DType> matrix_dtype)
      : files_(std::move(files)), matrix_dtype_(matrix_dtype) {}

  const Status& status() const { return status_; }
  void Fail(const std::string& tensor, const std::string& what);  // keeps the first
  const WeightFiles& files() const { return *files_; }
  const std::shared_ptr<const WeightFiles>& shared_files() const { return files_; }
  std::optional<DType> matrix_dtype() const { return matrix_dtype_; }

  // Each is f32, bf16 or f16 of exactly this shape, or the first problem is kept and an empty view
  // comes. keep false: only checked, for experts of other ranks.
  TensorView Matrix(const std::string& name, std::initializer_list<int64_t> shape,
                    bool keep = true);
  TensorView Vector(const std::string& name, int64_t size);     // f32 or bf16; f16 is widened
  TensorView VectorF32(const std::string& name, int64_t size);  // widened
  TensorView MatrixAsIs(const std::string& name, std::initializer_list<int64_t> shape);

  // For those who know more formats (quantized_weights.h): a tensor of this shape and one of these
  // dtypes, or nullptr and the first problem is kept.
  const StoredTensor* Check(const std::string& name, std::initializer_list<int64_t> shape,
                            std::initializer_list<DType> dtypes);
  // A view of a part as `dtype`; it may be converted until Load returns. Without `keep` it is empty
  // unless the file's bytes serve as they are.
  TensorView Keep(const TensorPart& part, DType dtype, bool keep = true);
  DType MatrixDType(DType stored) const { return matrix_dtype_.value_or(stored); }

  // Two stored tensors of the same dtype, shape and bytes. REQUIRES: both exist.
  bool SameContent(const std::string& a, const std::string& b) const;

  // Reads everything that was kept: prefaults mapped views and runs conversions.
  Status Load(const std::function<void(int64_t done, int64_t total)>& progress,
              int threads = LoadThreads());

  // For those who read the mapped parts by themselves, and check them: where in the files they lie,
  // by their begin in memory; and the conversions alone, `advance` after each.
  struct Place {
    const StoredTensor* tensor = nullptr;
    uint64_t begin = 0, bytes = 0;  // inside it
  };
  std::map<const std::byte*, Place> MappedPlaces() const;
  Status Convert(const std::function<void(uint64_t bytes)>& advance,
                 int threads = LoadThreads()) const;
  int64_t conversion_bytes() const;  // that are read for them

  int64_t load_bytes() const;                         // that Load reads
  int64_t kept_bytes() const { return kept_bytes_; }  // in memory after Load

 private:
  struct Conversion {
    TensorPart from;
    DType to;
    std::byte* out;
  };
  using Range = std::tuple<const StoredTensor*, uint64_t, uint64_t>;  // begin, bytes inside it

  Status ReadMapped(const std::function<void(uint64_t bytes)>& advance, int threads) const;
  void ConvertOne(const Conversion& conversion, ThreadTeam* team) const;
  // Bytes [begin, begin + bytes) of a tensor; NaN and infinities are refused.
  Status CheckFinite(const StoredTensor& tensor, uint64_t begin, uint64_t bytes,
                     ThreadTeam* team) const;

  const std::shared_ptr<const WeightFiles> files_;
  const std::optional<DType> matrix_dtype_;
  Status status_;
  std::set<Range> mapped_;
  std::vector<Conversion> conversions_;
  std::vector<HostBuffer> buffers_;
  int64_t kept_bytes_ = 0;
};

}  // namespace choir
