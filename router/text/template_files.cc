#include "router/text/template_files.h"

#include <filesystem>

#include "common/files/json_file.h"
#include "common/files/read_file.h"
#include "router/text/json_fields.h"

namespace choir::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kFileBytesMax = 16 << 20;

StatusOr<Json> ReadConfig(const std::filesystem::path& path) {
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json config, ReadJsonObjectIfThere(path.string()));
  return config.is_null() ? Json::object() : Json(config);
}

void AddToken(const std::string& name, const Json& token, Json* variables) {
  if (token.is_string()) (*variables)[name] = token;
  if (!token.is_object()) return;
  const auto content = token.find("content");
  if (content != token.end() && content->is_string()) (*variables)[name] = *content;
}

using Sources = std::map<std::string, TemplateFiles::Source>;

StatusOr<Sources> TemplatesOfConfig(const Json& config, const std::string& file) {
  Sources sources;
  const auto entry = config.find("chat_template");
  if (entry == config.end() || entry->is_null()) return sources;
  if (entry->is_string()) sources["default"] = {file, entry->get<std::string>()};
  if (entry->is_object()) {
    for (const auto& [name, text] : entry->items()) {
      if (!text.is_string()) {
        return InvalidArgument(
            "{}: chat_template['{}']: must be a string; take the file as the model's publisher has "
            "it",
            file, name);
      }
      sources[name] = {file, text.get<std::string>()};
    }
  }
  if (!entry->is_array() && sources.empty()) {
    return InvalidArgument(
        "{}: chat_template: must be a text or named templates; take the file as the model's "
        "publisher has it",
        file);
  }
  if (!entry->is_array()) return sources;
  for (const Json& named : *entry) {
    const auto name = named.is_object() ? named.find("name") : named.end();
    const auto text = named.is_object() ? named.find("template") : named.end();
    if (name == named.end() || text == named.end() || !name->is_string() || !text->is_string()) {
      return InvalidArgument(
          "{}: chat_template: each named template needs a name and a template; take the file as "
          "the model's publisher has it",
          file);
    }
    sources[name->get<std::string>()] = {file, text->get<std::string>()};
  }
  return sources;
}

// chat_template.jinja, and additional_chat_templates/NAME.jinja beside it.
Status AddTemplateFiles(const std::filesystem::path& dir, Sources* sources) {
  const auto add = [sources](const std::string& name, const std::filesystem::path& file) -> Status {
    CHOIR_ASSIGN_OR_RETURN(std::string text, ReadTextFile(file.string(), kFileBytesMax));
    (*sources)[name] = {file.string(), std::move(text)};
    return {};
  };
  if (IsThere((dir / "chat_template.jinja").string())) {
    sources->clear();
    CHOIR_RETURN_IF_ERROR(add("default", dir / "chat_template.jinja"));
  }
  std::error_code error;
  const auto more = std::filesystem::directory_iterator(dir / "additional_chat_templates", error);
  if (error) return {};
  for (const auto& file : more) {
    if (file.path().extension() != ".jinja") continue;
    CHOIR_RETURN_IF_ERROR(add(file.path().stem().string(), file.path()));
  }
  return {};
}

}  // namespace

void AddTokens(const Json& config, Json* variables) {
  for (const auto& [key, value] : config.items()) {
    if (key.ends_with("_token")) AddToken(key, value, variables);
  }
  const auto extra = config.find("extra_special_tokens");
  if (extra == config.end() || !extra->is_object()) return;
  for (const auto& [key, value] : extra->items()) AddToken(key, value, variables);
}

StatusOr<TemplateFiles> ReadTemplateFiles(const std::string& model_dir) {
  CHOIR_RETURN_IF_ERROR(RequireModelDirectory(model_dir));
  const std::filesystem::path dir(model_dir);
  CHOIR_ASSIGN_OR_RETURN(const Json config, ReadConfig(dir / "tokenizer_config.json"));
  CHOIR_ASSIGN_OR_RETURN(const Json special, ReadConfig(dir / "special_tokens_map.json"));
  TemplateFiles files;
  files.variables = Json::object();
  AddTokens(special, &files.variables);
  AddTokens(config, &files.variables);
  CHOIR_ASSIGN_OR_RETURN(files.templates, TemplatesOfConfig(config, dir / "tokenizer_config.json"));
  CHOIR_RETURN_IF_ERROR(AddTemplateFiles(dir, &files.templates));
  return files;
}

}  // namespace choir::text
