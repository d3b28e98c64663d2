// The weight files of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names. Immutable after Open; thread-safe.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/status.h"
#include "worker/model/files/mapped_file.h"
#include "worker/model/files/safetensors.h"

namespace choir {

struct StoredTensor {
  TensorInfo info;
  const MappedFile* file = nullptr;
  const std::byte* data() const { return file->bytes().data() + info.offset; }
};

class WeightFiles {
 public:
  // NotFound: no weights, or a shard is missing. InvalidArgument: anything else that is wrong,
  // pickle files included (they can execute code and are never opened).
  static StatusOr<std::unique_ptr<const WeightFiles>> Open(const std::string& model_dir);

  const StoredTensor* Find(const std::string& name) const;
  const std::string& dir() const { return dir_; }
  const std::vector<std::shared_ptr<const MappedFile>>& files() const { return files_; }
  // Sorted by name.
  std::vector<const StoredTensor*> Sorted() const;
  int64_t total_bytes() const { return total_bytes_; }  // of tensors
  // Gives pages back (MappedFile::Forget) where `data` lies in one of the files.
  void Forget(const void* data, uint64_t bytes) const;

 private:
  Status AddFile(const std::string& path, const std::vector<std::string>* names);
  Status OpenIndex(const std::string& index_path);

  std::string dir_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::unordered_map<std::string, StoredTensor> tensors_;
  int64_t total_bytes_ = 0;
};

}  // namespace choir
