// The inside of OptionSet, shared by its files: what kinds of options there are (option_kinds.cc),
// how they are read (options.cc) and described (config_schema.cc). For those only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/config/options.h"

namespace choir {

struct OptionSet::Impl {
  struct Option {
    OptionInfo info;
    std::string default_text;
    std::string range;     // for --help and errors: "1..65536"
    bool is_flag = false;  // takes no value on the command line
    bool repeated = false;
    std::string schema;                             // JSON Schema of its value in the file
    std::function<void()> clear;                    // repeated: forget what a weaker source said
    std::function<Status(const std::string&)> set;  // one value, as text
    std::vector<std::string> from_flags;
    bool given = false;
  };

  struct Subtree {
    std::string key;
    std::string help;
    std::function<Status(const YAML::Node&)> read;
  };

  std::string program, summary, section;
  std::vector<std::unique_ptr<Option>> options;
  std::vector<Subtree> subtrees;
  std::vector<std::function<Status()>> checks, section_checks;
  std::vector<std::string> errors;
  std::string config_file;
  bool check_config = false, check_section = false, config_schema = false;
  const Duration* retry_start = nullptr;  // null: the program has no such option

  // `told` has default_text, range and schema.
  void AddOption(OptionInfo info, Option told, std::function<Status(const std::string&)> set) {
    CHOIR_CHECK(!info.key.empty() || !info.flag.empty());
    told.info = std::move(info);
    told.set = std::move(set);
    options.push_back(std::make_unique<Option>(std::move(told)));
  }

  void Error(std::string text) { errors.push_back(std::move(text)); }
  void Set(Option& option, const std::string& source, const std::string& text) {
    option.given = true;
    if (const Status s = option.set(text); !s.ok()) Error(source + ": " + MessageOf(s));
  }
  Option* FindKey(const std::string& key) {
    for (auto& o : options) {
      if (o->info.key == key) return o.get();
    }
    return nullptr;
  }

  std::optional<int> ParseCommandLine(int argc, const char* const* argv);
  void Fill();
  void RunChecks(const std::vector<std::function<Status()>>& all);
  void CheckFlagsHaveValues(int argc, const char* const* argv);
  void ReadFile();
  void ReadNode(const YAML::Node& node, const std::string& prefix);
  void ReadLeaf(Option& option, const std::string& key, const YAML::Node& node);
  std::string UnknownKey(const std::string& key) const;
  std::string ConfigSchema() const;
};

}  // namespace choir
