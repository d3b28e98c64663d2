#include "router/content/rule_book.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace choir {
namespace {

struct Entry {
  ContentRule rule;
  std::string on = "both";
  std::vector<std::string> tenants;  // empty: all
};

StatusOr<std::string> Choice(const std::string& field, const std::string& value,
                             const std::set<std::string>& choices) {
  if (choices.contains(value)) return value;
  std::string known;
  for (const std::string& choice : choices) known += (known.empty() ? "" : ", ") + choice;
  return InvalidArgument("{}: '{}' is none of {}", field, value, known);
}

Status ReadField(const std::string& field, const YAML::Node& value, Entry* entry) {
  if (field == "tenants") {
    if (!value.IsSequence() || value.size() == 0) {
      return InvalidArgument("tenants: a list of names is needed; leave it out for all tenants");
    }
    for (const auto& tenant : value) entry->tenants.push_back(tenant.as<std::string>(""));
    return absl::OkStatus();
  }
  if (!value.IsScalar()) return InvalidArgument("{}: a text is needed", field);
  const std::string text = value.Scalar();
  if (field == "name") {
    entry->rule.name = text;
  } else if (field == "pattern") {
    entry->rule.pattern = text;
  } else if (field == "with") {
    entry->rule.replacement = text;
  } else if (field == "on") {
    CHOIR_ASSIGN_OR_RETURN(entry->on, Choice(field, text, {"input", "output", "both"}));
  } else if (field == "action") {
    CHOIR_ASSIGN_OR_RETURN(const std::string action, Choice(field, text, {"redact", "refuse"}));
    entry->rule.action = action == "redact" ? ContentAction::kRedact : ContentAction::kRefuse;
  } else if (field == "ignore_case") {
    CHOIR_ASSIGN_OR_RETURN(const std::string yes, Choice(field, text, {"true", "false"}));
    entry->rule.ignore_case = yes == "true";
  } else {
    return InvalidArgument(
        "unknown field '{}'; known are name, pattern, on, action, with, ignore_case, tenants",
        field);
  }
  return absl::OkStatus();
}

StatusOr<Entry> ReadEntry(const YAML::Node& node) {
  if (!node.IsMap()) return InvalidArgument("a map with name and pattern is needed");
  Entry entry;
  for (const auto& field : node) {
    CHOIR_RETURN_IF_ERROR(ReadField(field.first.as<std::string>(""), field.second, &entry));
  }
  if (entry.rule.pattern.empty()) return InvalidArgument("pattern: is needed");
  return entry;
}

bool Holds(const Entry& entry, const std::string& direction, const std::string& tenant) {
  if (entry.on != "both" && entry.on != direction) return false;
  return entry.tenants.empty() ||
         std::find(entry.tenants.begin(), entry.tenants.end(), tenant) != entry.tenants.end();
}

}  // namespace

StatusOr<ContentRuleBook> ContentRuleBook::Parse(const YAML::Node& rules) {
  if (!rules.IsSequence()) return InvalidArgument("a list of rules is needed");
  std::vector<Entry> entries;
  std::set<std::string> tenants = {""};
  for (size_t i = 0; i < rules.size(); ++i) {
    StatusOr<Entry> entry = ReadEntry(rules[i]);
    if (!entry.ok()) return InvalidArgument("[{}]: {}", i, MessageOf(entry.status()));
    tenants.insert(entry->tenants.begin(), entry->tenants.end());
    entries.push_back(*std::move(entry));
  }
  ContentRuleBook book;
  for (const auto& [direction, sets] :
       {std::pair<std::string, Sets*>{"input", &book.input_}, {"output", &book.output_}}) {
    for (const std::string& tenant : tenants) {
      std::vector<ContentRule> held;
      for (const Entry& entry : entries) {
        if (Holds(entry, direction, tenant)) held.push_back(entry.rule);
      }
      std::shared_ptr<const ContentRules>& set = (*sets)[tenant];
      if (held.empty()) continue;
      CHOIR_ASSIGN_OR_RETURN(set, ContentRules::Compile(std::move(held)));
    }
  }
  return book;
}

std::shared_ptr<const ContentRules> ContentRuleBook::For(const Sets& sets,
                                                         const std::string& tenant) {
  auto it = sets.find(tenant);
  if (it == sets.end()) it = sets.find("");
  return it == sets.end() ? nullptr : it->second;
}

}  // namespace choir
