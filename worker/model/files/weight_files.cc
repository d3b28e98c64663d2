#include "worker/model/files/weight_files.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "common/files/json_file.h"

namespace choir {
namespace {

constexpr size_t kShardsMax = 4096;

bool EndsWith(std::string_view s, std::string_view tail) {
  return s.size() >= tail.size() && s.substr(s.size() - tail.size()) == tail;
}

// Says why a directory without safetensors cannot be used.
Status NoWeights(const std::string& dir) {
  std::error_code error;
  std::string pickle;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    for (const char* tail : {".bin", ".pt", ".pth", ".ckpt", ".pkl"}) {
      if (EndsWith(name, tail) && (pickle.empty() || name < pickle)) pickle = name;
    }
  }
  if (!pickle.empty()) {
    return InvalidArgument(
        "{}/{}: format: pickle weights can execute code and are not read; convert "
        "them to safetensors",
        dir, pickle);
  }
  return NotFound(
      "{}/model.safetensors: file: is missing, and so is model.safetensors.index.json; "
      "complete the model directory",
      dir);
}

}  // namespace

StatusOr<std::unique_ptr<const WeightFiles>> WeightFiles::Open(const std::string& model_dir) {
  std::unique_ptr<WeightFiles> files(new WeightFiles());
  files->dir_ = model_dir;
  const std::string single = model_dir + "/model.safetensors", index = single + ".index.json";
  std::error_code error;
  const auto present = [&](const std::string& path) {
    return std::filesystem::symlink_status(path, error).type() !=
           std::filesystem::file_type::not_found;
  };
  if (present(single)) {
    CHOIR_RETURN_IF_ERROR(files->AddFile(single, nullptr));
  } else if (present(index)) {
    CHOIR_RETURN_IF_ERROR(files->OpenIndex(index));
  } else {
    return NoWeights(model_dir);
  }
  return std::unique_ptr<const WeightFiles>(std::move(files));
}

Status WeightFiles::OpenIndex(const std::string& index_path) {
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json index, ReadJsonObject(index_path));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    return InvalidArgument(
        "{}: weight_map: must be an object of tensor to file name; fetch the index again",
        index_path);
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string()) {
      return InvalidArgument("{}: weight_map.{}: must be a file name; fetch the index again",
                             index_path, tensor);
    }
    const auto& name = shard.get_ref<const std::string&>();
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
        name.find('\\') != std::string::npos || name.find('\0') != std::string::npos ||
        !EndsWith(name, ".safetensors")) {
      return InvalidArgument(
          "{}: weight_map.{}: '{}' is not the plain name of a .safetensors file in "
          "this directory; fetch the index again",
          index_path, tensor, name.substr(0, 128));
    }
    shards[name].push_back(tensor);
    if (shards.size() > kShardsMax) {
      return InvalidArgument("{}: weight_map: names more than {} files; fetch the index again",
                             index_path, kShardsMax);
    }
  }
  if (shards.empty())
    return InvalidArgument("{}: weight_map: is empty; fetch the index again", index_path);
  for (const auto& [shard, names] : shards) {
    CHOIR_RETURN_IF_ERROR(AddFile(dir_ + "/" + shard, &names));
  }
  return {};
}

// names: the tensors the index expects in this file; nullptr: all that are in it.
Status WeightFiles::AddFile(const std::string& path, const std::vector<std::string>* names) {
  CHOIR_ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  CHOIR_ASSIGN_OR_RETURN(std::vector<TensorInfo> infos, ParseSafetensors(file->bytes(), path));
  std::unordered_map<std::string, TensorInfo> in_file;
  for (TensorInfo& info : infos) {
    std::string name = info.name;
    in_file.emplace(std::move(name), std::move(info));
  }
  const auto add = [&](TensorInfo info) {
    total_bytes_ += static_cast<int64_t>(info.bytes);
    std::string name = info.name;
    tensors_.emplace(std::move(name), StoredTensor{std::move(info), file.get()});
  };
  if (names == nullptr) {
    for (auto& [name, info] : in_file) add(std::move(info));
  } else {
    for (const std::string& name : *names) {
      const auto it = in_file.find(name);
      if (it == in_file.end()) {
        return InvalidArgument(
            "{}: tensor {}: is not in this file, though the index says so; fetch "
            "index and shards again",
            path, name);
      }
      add(std::move(it->second));
    }
  }
  files_.push_back(std::move(file));
  return {};
}

const StoredTensor* WeightFiles::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

std::vector<const StoredTensor*> WeightFiles::Sorted() const {
  std::vector<const StoredTensor*> all;
  all.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) all.push_back(&tensor);
  std::sort(all.begin(), all.end(), [](const StoredTensor* a, const StoredTensor* b) {
    return a->info.name < b->info.name;
  });
  return all;
}

void WeightFiles::Forget(const void* data, uint64_t bytes) const {
  const auto* begin = static_cast<const std::byte*>(data);
  for (const auto& file : files_) {
    const std::span<const std::byte> all = file->bytes();
    if (begin < all.data() || begin >= all.data() + all.size()) continue;
    return file->Forget(static_cast<uint64_t>(begin - all.data()), bytes);
  }
}

}  // namespace choir
