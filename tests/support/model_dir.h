// A throw-away copy of a golden checkpoint that a test may damage.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace choir {

class ModelDir {
 public:
  explicit ModelDir(const std::string& golden_name);  // "": an empty directory
  ~ModelDir();
  ModelDir(const ModelDir&) = delete;
  ModelDir& operator=(const ModelDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  std::string Read(const std::string& name) const;
  void Write(const std::string& name, const std::string& bytes) const;
  void Remove(const std::string& name) const;

  void EditJson(const std::string& name, const std::function<void(nlohmann::json&)>& edit) const;
  void SetConfig(const std::string& key, nlohmann::json value) const;
  // Rewrites a safetensors file with an edited header and the same data.
  void EditHeader(const std::string& name, const std::function<void(nlohmann::json&)>& edit) const;
  // The same with a header given as text.
  void ReplaceHeader(const std::string& name, const std::string& header) const;

 private:
  std::string path_;
};

}  // namespace choir
