#include "router/text/chat_template.h"

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "router/text/template/inspect.h"
#include "router/text/template/interpreter.h"
#include "router/text/template/parser.h"
#include "router/text/template_files.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;
using tmpl::Value;

constexpr char kTemplateName[] = "chat_template";  // among kwargs: which of several

struct Parsed {
  std::unique_ptr<const tmpl::Program> program;
  bool iterates_content = false;
  bool shows_arguments = false;  // of tool calls, as JSON or one by one, when they are an object
  bool knows_developer = false;
};

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

StatusOr<std::string> Run(const tmpl::Program& program, const Json& variables, const Clock& clock,
                          const TemplateLimits& limits) {
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

// Whether a call whose arguments are an object comes out as JSON or as names and values, and not as
// an error or as Python prints a dict: by trying it. Published templates differ: some take the text
// of the arguments, some the object, some both; `is string` in them does not tell which.
bool ShowsArguments(const tmpl::Program& program, Json variables) {
  static constexpr char kName[] = "choir_argument";
  const Json call = {
      {"id", "call00001"},
      {"type", "function"},
      {"function", {{"name", "choir_function"}, {"arguments", {{kName, "choir_value"}}}}}};
  variables["messages"] = {{{"role", "user"}, {"content", "x"}},
                           {{"role", "assistant"}, {"content", ""}, {"tool_calls", {call}}},
                           {{"role", "tool"},
                            {"name", "choir_function"},
                            {"tool_call_id", "call00001"},
                            {"content", "y"}}};
  variables["documents"] = Json();
  variables["add_generation_prompt"] = true;
  const Json tool = {{"type", "function"},
                     {"function",
                      {{"name", "choir_function"},
                       {"description", "z"},
                       {"parameters", {{"type", "object"}, {"properties", Json::object()}}}}}};
  for (const Json& tools : {Json::array({tool}), Json()}) {
    variables["tools"] = tools;
    const auto text = Run(program, variables, Clock::Real(), {.steps_max = 200'000});
    if (!text.ok() || text->find(kName) == std::string::npos) continue;
    return text->find(fmt::format("'{}'", kName)) == std::string::npos;
  }
  return false;
}

StatusOr<Parsed> ParseTemplate(const std::string& text, const Json& variables) {
  Parsed parsed;
  CHOIR_ASSIGN_OR_RETURN(parsed.program, tmpl::Parse(text));
  parsed.iterates_content = tmpl::IteratesContent(*parsed.program);
  parsed.shows_arguments = ShowsArguments(*parsed.program, variables);
  parsed.knows_developer = text.find("developer") != std::string::npos;
  return parsed;
}

// JSON text of an object becomes the object; an empty text is one without arguments. What else a
// model may have written stays text.
void ParseArguments(Json* message) {
  const auto calls = message->find("tool_calls");
  if (calls == message->end() || !calls->is_array()) return;
  for (Json& call : *calls) {
    const auto function = call.is_object() ? call.find("function") : call.end();
    if (function == call.end() || !function->is_object()) continue;
    const auto arguments = function->find("arguments");
    if (arguments == function->end() || !arguments->is_string()) continue;
    const auto& text = arguments->get_ref<const std::string&>();
    Json parsed = text.empty() ? Json::object() : Json::parse(text, nullptr, false);
    if (parsed.is_object()) *arguments = std::move(parsed);
  }
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
    CHOIR_ASSIGN_OR_RETURN(const Parsed* parsed, Select(request, has_tools));

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
        if (name != kTemplateName) variables[name] = value;
      }
    }
    return Run(*parsed->program, variables, clock, limits);
  }

  void Adapt(Json* request) const override {
    const auto messages = request->find("messages");
    const auto tools = request->find("tools");
    if (messages == request->end() || !messages->is_array()) return;
    const auto parsed = Select(*request, tools != request->end() && !tools->is_null());
    if (!parsed.ok()) return;  // Render says why
    for (Json& message : *messages) {
      if (!message.is_object()) continue;
      if ((*parsed)->shows_arguments) ParseArguments(&message);
      const auto role = message.find("role");
      if (!(*parsed)->knows_developer && role != message.end() && *role == "developer") {
        *role = "system";
      }
    }
  }

 private:
  // kwargs may name one; else tool_use when tools are given, else default.
  StatusOr<const Parsed*> Select(const Json& request, bool has_tools) const {
    const auto kwargs = request.find("kwargs");
    const bool named = kwargs != request.end() && kwargs->is_object();
    if (const Json name = named ? kwargs->value(kTemplateName, Json()) : Json(); !name.is_null()) {
      const auto found =
          name.is_string() ? templates_.find(name.get<std::string>()) : templates_.end();
      if (found != templates_.end()) return &found->second;
      return InvalidArgument("{} {} is not among the model's templates: {}", kTemplateName,
                             name.dump(-1, ' ', false, Json::error_handler_t::replace), Names());
    }
    auto it = templates_.find("tool_use");
    if (!has_tools || it == templates_.end()) it = templates_.find("default");
    if (it != templates_.end()) return &it->second;
    return InvalidArgument(
        "the model has several chat templates and none is named 'default': name one of {} as "
        "chat_template in the template's arguments",
        Names());
  }

  std::string Names() const {
    std::string names;
    for (const auto& [name, parsed] : templates_) names += (names.empty() ? "" : ", ") + name;
    return names;
  }

  const std::map<std::string, Parsed> templates_;
  const Json variables_;
};

}  // namespace

StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  CHOIR_ASSIGN_OR_RETURN(text::TemplateFiles files, text::ReadTemplateFiles(model_dir));
  if (files.templates.empty()) {
    return NotFound(
        "{}: has no chat template (chat_template.jinja, or chat_template in "
        "tokenizer_config.json); use completions, or a model made for chat",
        model_dir);
  }
  std::map<std::string, Parsed> templates;
  for (const auto& [name, source] : files.templates) {
    auto parsed = ParseTemplate(source.text, files.variables);
    if (!parsed.ok()) {
      return InvalidArgument("{}: template '{}': {}; correct the template, or use another model",
                             source.file, name, MessageOf(parsed.status()));
    }
    templates.emplace(name, *std::move(parsed));
  }
  return std::make_unique<JinjaChatTemplate>(std::move(templates), std::move(files.variables));
}

StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::FromText(const std::string& text,
                                                               const Json& variables) {
  Json tokens = Json::object();
  if (variables.is_object()) text::AddTokens(variables, &tokens);
  for (const auto& [key, value] : variables.items()) {
    if (!tokens.contains(key)) tokens[key] = value;
  }
  CHOIR_ASSIGN_OR_RETURN(Parsed parsed, ParseTemplate(text, tokens));
  std::map<std::string, Parsed> templates;
  templates.emplace("default", std::move(parsed));
  return std::make_unique<JinjaChatTemplate>(std::move(templates), std::move(tokens));
}

}  // namespace choir
