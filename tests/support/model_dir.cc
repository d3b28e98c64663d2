#include "tests/support/model_dir.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/base/check.h"
#include "tests/golden/golden.h"

namespace choir {

namespace fs = std::filesystem;

ModelDir::ModelDir(const std::string& golden_name) {
  std::string pattern = (fs::temp_directory_path() / "choir_model_XXXXXX").string();
  CHOIR_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
  if (golden_name.empty()) return;
  fs::copy(golden::Dir(golden_name), path_, fs::copy_options::recursive);
  fs::remove(File("expected.json"));
}

ModelDir::~ModelDir() {
  std::error_code error;
  fs::remove_all(path_, error);
}

std::string ModelDir::Read(const std::string& name) const {
  std::ifstream in(File(name), std::ios::binary);
  CHOIR_CHECK(in.good());
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void ModelDir::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream out(File(name), std::ios::binary | std::ios::trunc);
  out << bytes;
  CHOIR_CHECK(out.flush().good());
}

void ModelDir::Remove(const std::string& name) const { CHOIR_CHECK(fs::remove(File(name))); }

void ModelDir::EditJson(const std::string& name,
                        const std::function<void(nlohmann::json&)>& edit) const {
  nlohmann::json json = nlohmann::json::parse(Read(name));
  edit(json);
  Write(name, json.dump());
}

void ModelDir::SetConfig(const std::string& key, nlohmann::json value) const {
  EditJson("config.json", [&](nlohmann::json& config) { config[key] = std::move(value); });
}

void ModelDir::EditHeader(const std::string& name,
                          const std::function<void(nlohmann::json&)>& edit) const {
  const std::string file = Read(name);
  uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof(size));
  nlohmann::json header = nlohmann::json::parse(file.substr(8, size));
  edit(header);
  ReplaceHeader(name, header.dump());
}

void ModelDir::ReplaceHeader(const std::string& name, const std::string& header) const {
  const std::string file = Read(name);
  uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof(size));
  const uint64_t new_size = header.size();
  std::string out(reinterpret_cast<const char*>(&new_size), sizeof(new_size));
  Write(name, out + header + file.substr(8 + size));
}

}  // namespace choir
