#include "router/text/chat_template.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "router/text/json_fields.h"
#include "router/text/template/inspect.h"
#include "router/text/template/interpreter.h"
#include "router/text/template/parser.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;
using tmpl::Value;

constexpr uint64_t kFileBytesMax = 16 << 20;

struct Parsed {
  std::unique_ptr<const tmpl::Program> program;
  bool iterates_content = false;
};

StatusOr<Parsed> ParseTemplate(const std::string& text) {
  Parsed parsed;
  CHOIR_ASSIGN_OR_RETURN(parsed.program, tmpl::Parse(text));
  parsed.iterates_content = tmpl::IteratesContent(*parsed.program);
  return parsed;
}

// JSON to the template's values. Nesting is bounded by the runtime.
class Importer {
 public:
  explicit Importer(tmpl::Runtime& rt) : rt_(rt) {}

  StatusOr<Value> Import(const Json& json) {
    if (++depth_ > tmpl::kValueDepthMax) return InvalidArgument("the request nests too deep");
    StatusOr<Value> value = ImportOne(json);
    --depth_;
    return value;
  }

 private:
  StatusOr<Value> ImportOne(const Json& json) {
    switch (json.type()) {
      case Json::value_t::boolean:
        return Value::Bool(json.get<bool>());
      case Json::value_t::number_integer:
        return Value::Int(json.get<int64_t>());
      case Json::value_t::number_unsigned:
        if (json.get<uint64_t>() > INT64_MAX) {
          return InvalidArgument("the integer {} does not fit in 64 bits", json.get<uint64_t>());
        }
        return Value::Int(json.get<int64_t>());
      case Json::value_t::number_float:
        return Value::Float(json.get<double>());
      case Json::value_t::string:
        return rt_.String(json.get_ref<const std::string&>());
      case Json::value_t::array: {
        std::vector<Value> items;
        items.reserve(json.size());
        for (const Json& item : json) {
          CHOIR_ASSIGN_OR_RETURN(Value v, Import(item));
          items.push_back(std::move(v));
        }
        return rt_.List(std::move(items));
      }
      case Json::value_t::object: {
        auto dict = rt_.NewDict();
        for (const auto& [key, item] : json.items()) {
          CHOIR_ASSIGN_OR_RETURN(Value v, Import(item));
          dict->Set(rt_.String(key), std::move(v));
        }
        return rt_.Finish(std::move(dict));
      }
      default:
        return Value::None();
    }
  }

  tmpl::Runtime& rt_;
  uint32_t depth_ = 0;
};

// Text parts joined by line ends, for templates that take content as one string.
StatusOr<std::string> Flatten(const Json& parts) {
  std::string text;
  bool first = true;
  for (const Json& part : parts) {
    const Json* piece = &part;
    if (part.is_object()) {
      const auto type = part.find("type");
      const auto value = part.find("text");
      if (value == part.end() || !value->is_string()) {
        return InvalidArgument(
            "this model's chat template takes text only, not a content part of type {}",
            type == part.end() ? "none" : type->dump());
      }
      piece = &*value;
    }
    if (!piece->is_string()) return InvalidArgument("a content part must be an object or a string");
    if (!std::exchange(first, false)) text += "\n";
    text += piece->get_ref<const std::string&>();
  }
  return text;
}

// A message as transformers shows it to the template: keys whose value is null are dropped (null
// content is ""), and the reasoning is found under its other names too.
StatusOr<Json> Normalize(const Json& message, bool iterates_content) {
  Json out = Json::object();
  const Json* reasoning = nullptr;
  for (const char* name : {"reasoning", "thinking", "reasoning_content"}) {  // the last one wins
    const auto it = message.find(name);
    if (it != message.end() && !it->is_null()) reasoning = &*it;
  }
  if (reasoning != nullptr) out["thinking"] = *reasoning;
  for (const auto& [key, value] : message.items()) {
    if (key == "content" && value.is_null()) {
      out[key] = "";
    } else if (key == "content" && value.is_array() && !iterates_content) {
      CHOIR_ASSIGN_OR_RETURN(out[key], Flatten(value));
    } else if (!value.is_null()) {
      out[key] = value;
    }
  }
  if (reasoning != nullptr) out["reasoning_content"] = *reasoning;
  return out;
}

StatusOr<Json> NormalizeMessages(const Json& request, bool iterates_content) {
  const auto messages = request.find("messages");
  if (messages == request.end() || !messages->is_array()) {
    return InvalidArgument("'messages' must be a list of messages");
  }
  if (messages->empty())
    return InvalidArgument("'messages' is empty: at least one message is needed");
  Json out = Json::array();
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    if (!message.is_object()) return InvalidArgument("messages[{}] must be an object", i);
    auto normal = Normalize(message, iterates_content);
    if (!normal.ok()) return Annotate(normal.status(), fmt::format("messages[{}].content", i));
    out.push_back(*std::move(normal));
  }
  return out;
}

class JinjaChatTemplate : public ChatTemplate {
 public:
  JinjaChatTemplate(std::map<std::string, Parsed> templates, Json variables)
      : templates_(std::move(templates)), variables_(std::move(variables)) {}

  StatusOr<std::string> Render(const Json& request, const Clock& clock,
                               const TemplateLimits& limits) const override {
    if (!request.is_object()) return InvalidArgument("the request must be an object");
    const auto tools = request.find("tools");
    const bool has_tools = tools != request.end() && !tools->is_null();
    CHOIR_ASSIGN_OR_RETURN(const Parsed* parsed, Select(has_tools));

    Json variables = variables_;
    CHOIR_ASSIGN_OR_RETURN(variables["messages"],
                           NormalizeMessages(request, parsed->iterates_content));
    const auto generation = request.find("add_generation_prompt");
    variables["tools"] = has_tools ? *tools : Json();
    variables["documents"] = Json();
    variables["add_generation_prompt"] = generation == request.end() ? Json(false) : *generation;
    if (const auto kwargs = request.find("kwargs"); kwargs != request.end() && !kwargs->is_null()) {
      if (!kwargs->is_object()) return InvalidArgument("'kwargs' must be an object");
      for (const auto& [name, value] : kwargs->items()) {
        if (name == "messages" || name == "tools" || name == "add_generation_prompt") {
          return InvalidArgument("'{}' cannot be given in kwargs", name);
        }
        variables[name] = value;
      }
    }
    return Run(*parsed->program, variables, clock, limits);
  }

 private:
  StatusOr<const Parsed*> Select(bool has_tools) const {
    auto it = templates_.find("tool_use");
    if (!has_tools || it == templates_.end()) it = templates_.find("default");
    if (it != templates_.end()) return &it->second;
    return InvalidArgument("the model has several chat templates and none is named 'default'");
  }

  static StatusOr<std::string> Run(const tmpl::Program& program, const Json& variables,
                                   const Clock& clock, const TemplateLimits& limits) {
    tmpl::Interpreter interpreter(program, limits, clock);
    Importer importer(interpreter.runtime());
    for (size_t symbol = 0; symbol < program.symbols.size(); ++symbol) {
      const auto it = variables.find(program.symbols[symbol]);
      if (it == variables.end()) continue;
      CHOIR_ASSIGN_OR_RETURN(Value value, importer.Import(*it));
      interpreter.Define(static_cast<int>(symbol), std::move(value));
    }
    return interpreter.Run();
  }

  const std::map<std::string, Parsed> templates_;
  const Json variables_;
};

StatusOr<std::string> ReadFile(const std::filesystem::path& path) {
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) return NotFound("{}: {}", path.string(), error.message());
  if (size > kFileBytesMax) {
    return InvalidArgument("{}: {} bytes, at most {} are read", path.string(), size, kFileBytesMax);
  }
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) return NotFound("{}: cannot be read", path.string());
  return text.str();
}

StatusOr<Json> ReadJson(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return Json::object();
  CHOIR_ASSIGN_OR_RETURN(const std::string file, ReadFile(path));
  Json json = Json::parse(file, nullptr, false);
  if (json.is_object()) return json;
  if (json.is_discarded()) {  // parsed once more for where and why
    CHOIR_RETURN_IF_ERROR(text::ParseJson(file, path.string()).status());
  }
  return InvalidArgument("{}: must be a JSON object", path.string());
}

void AddToken(const std::string& name, const Json& token, Json* variables) {
  if (token.is_string()) (*variables)[name] = token;
  if (!token.is_object()) return;
  const auto content = token.find("content");
  if (content != token.end() && content->is_string()) (*variables)[name] = *content;
}

// bos_token, eos_token, ...; and the tokens a model adds under names of its own.
void AddTokens(const Json& config, Json* variables) {
  for (const auto& [key, value] : config.items()) {
    if (key.ends_with("_token")) AddToken(key, value, variables);
  }
  const auto extra = config.find("extra_special_tokens");
  if (extra == config.end() || !extra->is_object()) return;
  for (const auto& [key, value] : extra->items()) AddToken(key, value, variables);
}

struct Source {
  std::string file;  // that it was found in
  std::string text;
};
using Sources = std::map<std::string, Source>;

StatusOr<Sources> TemplatesOfConfig(const Json& config, const std::string& file) {
  Sources sources;
  const auto entry = config.find("chat_template");
  if (entry == config.end()) return sources;
  if (entry->is_string()) sources["default"] = {file, entry->get<std::string>()};
  if (!entry->is_array()) return sources;
  for (const Json& named : *entry) {
    const auto name = named.is_object() ? named.find("name") : named.end();
    const auto text = named.is_object() ? named.find("template") : named.end();
    if (name == named.end() || text == named.end() || !name->is_string() || !text->is_string()) {
      return InvalidArgument("{}: chat_template: each named template needs a name and a template",
                             file);
    }
    sources[name->get<std::string>()] = {file, text->get<std::string>()};
  }
  return sources;
}

// chat_template.jinja, and additional_chat_templates/NAME.jinja beside it.
Status AddTemplateFiles(const std::filesystem::path& dir, Sources* sources) {
  const auto add = [sources](const std::string& name, const std::filesystem::path& file) -> Status {
    CHOIR_ASSIGN_OR_RETURN(std::string text, ReadFile(file));
    (*sources)[name] = {file.string(), std::move(text)};
    return {};
  };
  std::error_code error;
  if (std::filesystem::exists(dir / "chat_template.jinja", error)) {
    sources->clear();
    CHOIR_RETURN_IF_ERROR(add("default", dir / "chat_template.jinja"));
  }
  const auto more = std::filesystem::directory_iterator(dir / "additional_chat_templates", error);
  if (error) return {};
  for (const auto& file : more) {
    if (file.path().extension() != ".jinja") continue;
    CHOIR_RETURN_IF_ERROR(add(file.path().stem().string(), file.path()));
  }
  return {};
}

}  // namespace

StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  CHOIR_RETURN_IF_ERROR(text::RequireModelDirectory(model_dir));
  const std::filesystem::path dir(model_dir);
  CHOIR_ASSIGN_OR_RETURN(const Json config, ReadJson(dir / "tokenizer_config.json"));
  CHOIR_ASSIGN_OR_RETURN(const Json special, ReadJson(dir / "special_tokens_map.json"));
  Json variables = Json::object();
  AddTokens(special, &variables);
  AddTokens(config, &variables);
  CHOIR_ASSIGN_OR_RETURN(Sources sources, TemplatesOfConfig(config, dir / "tokenizer_config.json"));
  CHOIR_RETURN_IF_ERROR(AddTemplateFiles(dir, &sources));
  if (sources.empty()) {
    return NotFound(
        "{}: has no chat template (chat_template.jinja, or chat_template in "
        "tokenizer_config.json); use completions, or a model made for chat",
        model_dir);
  }
  std::map<std::string, Parsed> templates;
  for (const auto& [name, source] : sources) {
    auto parsed = ParseTemplate(source.text);
    if (!parsed.ok()) {
      return InvalidArgument("{}: template '{}': {}; correct the template, or use another model",
                             source.file, name, MessageOf(parsed.status()));
    }
    templates.emplace(name, *std::move(parsed));
  }
  return std::make_unique<JinjaChatTemplate>(std::move(templates), std::move(variables));
}

StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::FromText(const std::string& text,
                                                               const Json& variables) {
  CHOIR_ASSIGN_OR_RETURN(Parsed parsed, ParseTemplate(text));
  std::map<std::string, Parsed> templates;
  templates.emplace("default", std::move(parsed));
  Json tokens = Json::object();
  if (variables.is_object()) AddTokens(variables, &tokens);
  for (const auto& [key, value] : variables.items()) {
    if (!tokens.contains(key)) tokens[key] = value;
  }
  return std::make_unique<JinjaChatTemplate>(std::move(templates), std::move(tokens));
}

}  // namespace choir
