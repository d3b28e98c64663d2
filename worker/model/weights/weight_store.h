// Hands out checked views of a model's tensors: from the mapped file where that is what kernels can
// use, else converted once into own memory. Keeps the first problem, as ConfigReader does. One
// thread while loading; what it gave out is read-only and lives as long as the store.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/runtime/thread_team.h"
#include "common/tensor/tensor_view.h"
#include "worker/model/files/weight_files.h"
#include "worker/model/weights/host_buffer.h"

namespace choir {

class WeightStore {
 public:
  // `matrix_dtype`: what matrices are converted to; empty: they stay as they are.
  WeightStore(std::unique_ptr<const WeightFiles> files, std::optional<DType> matrix_dtype)
      : files_(std::move(files)), matrix_dtype_(matrix_dtype) {}

  const Status& status() const { return status_; }
  void Fail(const std::string& tensor, const std::string& what);  // keeps the first
  const WeightFiles& files() const { return *files_; }

  // Each is f32 or bf16 of exactly this shape, or the first problem is kept and an empty view
  // comes. keep false: only checked, for experts of other ranks.
  TensorView Matrix(const std::string& name, std::initializer_list<int64_t> shape,
                    bool keep = true);
  TensorView Vector(const std::string& name, int64_t size);     // dtype as in the file
  TensorView VectorF32(const std::string& name, int64_t size);  // widened
  TensorView MatrixAsIs(const std::string& name, std::initializer_list<int64_t> shape);

  // Two stored tensors of the same dtype, shape and bytes. REQUIRES: both exist.
  bool SameContent(const std::string& a, const std::string& b) const;

  // Reads everything that was kept: prefaults mapped views and runs conversions.
  Status Load(const std::function<void(int64_t done, int64_t total)>& progress);
  int64_t kept_bytes() const { return kept_bytes_; }  // in memory after Load

 private:
  struct Conversion {
    const StoredTensor* from;
    DType to;
    std::byte* out;
  };

  const StoredTensor* Check(const std::string& name, std::initializer_list<int64_t> shape);
  TensorView Keep(const StoredTensor& tensor, std::initializer_list<int64_t> shape, DType dtype);
  void Convert(const Conversion& conversion, ThreadTeam* team) const;

  std::unique_ptr<const WeightFiles> files_;
  const std::optional<DType> matrix_dtype_;
  Status status_;
  std::set<const StoredTensor*> mapped_;
  std::vector<Conversion> conversions_;
  std::vector<HostBuffer> buffers_;
  int64_t kept_bytes_ = 0;
};

}  // namespace choir
