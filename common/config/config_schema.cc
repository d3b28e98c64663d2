// The JSON Schema of a program's section of the configuration file, from its options: for editors,
// and for the chart, whose values are checked by it.
#include <nlohmann/json.hpp>

#include "common/config/options_impl.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

Json ClosedObject() { return {{"type", "object"}, {"additionalProperties", false}}; }

// Makes the objects on the way to "audit.class" as it goes.
Json& PlaceOf(Json* section, const std::string& key) {
  Json* at = section;
  size_t begin = 0;
  for (size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.', begin)) {
    Json& inner = (*at)["properties"][key.substr(begin, dot - begin)];
    if (inner.is_null()) inner = ClosedObject();
    at = &inner;
    begin = dot + 1;
  }
  return (*at)["properties"][key.substr(begin)];
}

}  // namespace

std::string OptionSet::Impl::ConfigSchema() const {
  Json schema = {
      {"$schema", "https://json-schema.org/draft/2020-12/schema"},
      {"title", fmt::format("Section `{}` of {}'s configuration file", section, program)}};
  schema.update(ClosedObject());
  for (const auto& option : options) {
    if (option->info.key.empty()) continue;
    const std::string& preset = option->default_text;
    Json& place = PlaceOf(&schema, option->info.key);
    place = Json::parse(option->schema);
    place["description"] = option->info.help + (preset.empty() ? "" : " [" + preset + "]");
  }
  for (const Subtree& subtree : subtrees) {
    PlaceOf(&schema, subtree.key) = {{"description", subtree.help}};
  }
  return schema.dump(1);
}

}  // namespace choir
