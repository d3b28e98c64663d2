// How options are read: from the command line and the file.
#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <utility>

#include "common/base/version.h"
#include "common/config/options_impl.h"

namespace choir {
namespace {

// Top-level sections of a configuration file.
const std::vector<std::string> kSections = {"up", "router", "worker", "gateway"};

}  // namespace

OptionSet::OptionSet(std::string program, std::string summary, std::string section)
    : impl_(std::make_unique<Impl>()) {
  impl_->program = std::move(program);
  impl_->summary = std::move(summary);
  impl_->section = std::move(section);
}
OptionSet::~OptionSet() = default;
const std::string& OptionSet::config_file() const { return impl_->config_file; }

void OptionSet::AddSubtree(std::string key, std::string help,
                           std::function<Status(const YAML::Node&)> read) {
  impl_->subtrees.push_back({std::move(key), std::move(help), std::move(read)});
}

void OptionSet::AddCheck(std::function<Status()> check) {
  impl_->checks.push_back(std::move(check));
}

void OptionSet::AddSectionCheck(std::function<Status()> check) {
  impl_->section_checks.push_back(std::move(check));
}

void OptionSet::AddRetryStart(Duration* value) {
  impl_->retry_start = value;
  AddDuration(
      value,
      {.key = "retry_start",
       .flag = "--retry-start",
       .help = "when it cannot start, it stays for so long, tells why in /readyz, and tries "
               "again; 0s: it ends"},
      Duration(0), std::chrono::hours(1));
}

void OptionSet::AddStartCheck(std::function<Status()> check) {
  AddCheck([impl = impl_.get(), check = std::move(check)]() -> Status {
    const bool tried_again = impl->retry_start != nullptr && *impl->retry_start > Duration(0);
    return tried_again && !impl->check_config ? absl::OkStatus() : check();
  });
}

void OptionSet::AddFileCheck(std::function<Status()> check) {
  AddCheck([impl = impl_.get(), check = std::move(check)]() -> Status {
    return impl->check_config ? check() : absl::OkStatus();
  });
}

std::optional<int> OptionSet::Impl::ParseCommandLine(int argc, const char* const* argv) {
  CLI::App app(summary, program);
  app.allow_extras();
  std::vector<std::string> flags = {"--help", "--version"};
  app.set_version_flag("--version", program + " " + kVersion);
  if (!section.empty()) {
    app.add_option("--config", config_file, "YAML file; flags win over it")->type_name("FILE");
    app.add_flag("--check-config", check_config, "check the configuration and exit");
    app.add_flag("--check-section", check_section,
                 "check only what its section of --config says, key by key, and exit");
    app.add_flag("--config-schema", config_schema,
                 "print the JSON Schema of its section of the file, and exit");
    flags.insert(flags.end(), {"--config", "--check-config", "--check-section", "--config-schema"});
  }
  for (auto& option : options) {
    if (option->info.flag.empty()) continue;
    flags.push_back(option->info.flag);
    std::string help = option->info.help;
    if (!option->range.empty()) help += " (" + option->range + ")";
    if (!option->default_text.empty() && !option->is_flag)
      help += " [" + option->default_text + "]";
    if (option->is_flag) {
      app.add_flag_function(
          option->info.flag,
          [&values = option->from_flags](int64_t count) {
            values = {count > 0 ? "true" : "false"};
          },
          help);
    } else {
      app.add_option(option->info.flag, option->from_flags, help)
          ->expected(1)
          ->allow_extra_args(false)  // a second word is no value of the same flag
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
          ->type_name(option->info.required ? "VALUE (required)" : "VALUE");
    }
  }
  CheckFlagsHaveValues(argc, argv);
  if (!errors.empty()) return std::nullopt;
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    Error(e.what());
    return std::nullopt;
  }
  for (const std::string& extra : app.remaining()) {
    const std::string near = NearestName(extra, flags);
    Error(fmt::format("unknown {} '{}'{}; --help lists all",
                      extra.starts_with("-") ? "flag" : "argument", extra,
                      near.empty() ? "" : ", did you mean " + near + "?"));
  }
  if (!errors.empty() || !config_schema) return std::nullopt;
  std::printf("%s\n", ConfigSchema().c_str());
  return 0;
}

// CLI11 looks for a missing value behind the next flag.
void OptionSet::Impl::CheckFlagsHaveValues(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool takes_value =
        word == "--config" || std::any_of(options.begin(), options.end(), [&](const auto& o) {
          return o->info.flag == word && !o->is_flag;
        });
    if (!takes_value || !word.starts_with("--")) continue;
    if (i + 1 == argc || std::string_view(argv[i + 1]).starts_with("--")) {
      Error(word + " needs a value");
    }
    ++i;
  }
}

std::string OptionSet::Impl::UnknownKey(const std::string& key) const {
  std::vector<std::string> names;
  for (const auto& o : options) {
    if (!o->info.key.empty()) names.push_back(section + "." + o->info.key);
  }
  for (const Subtree& s : subtrees) names.push_back(section + "." + s.key);
  return fmt::format("{}: unknown key '{}'{}", config_file, key, NearestHint(key, names));
}

void OptionSet::Impl::ReadLeaf(Option& option, const std::string& key, const YAML::Node& node) {
  const std::string source = fmt::format("{}: {}", config_file, key);
  if (option.repeated) {
    option.clear();
    if (!node.IsSequence()) return Error(source + ": must be a list");
    for (const auto& item : node) {
      if (!item.IsScalar()) return Error(source + ": must be a list of values");
      Set(option, source, item.Scalar());
    }
    return;
  }
  if (node.IsNull()) return;  // as if absent
  if (!node.IsScalar()) return Error(source + ": must be a single value");
  Set(option, source, node.Scalar());
}

void OptionSet::Impl::ReadNode(const YAML::Node& node, const std::string& prefix) {
  if (node.IsNull()) return;
  if (!node.IsMap()) return Error(fmt::format("{}: {} must be a mapping", config_file, prefix));
  std::map<std::string, int> seen;
  for (const auto& item : node) {
    const std::string name = item.first.IsScalar() ? item.first.Scalar() : "?";
    const std::string full = prefix + "." + name;
    const std::string key = full.substr(section.size() + 1);
    if (++seen[name] > 1) {
      Error(fmt::format("{}: {} is given twice", config_file, full));
      continue;
    }
    bool handled = false;
    for (const Subtree& s : subtrees) {
      if (s.key != key) continue;
      handled = true;
      if (const Status status = s.read(item.second); !status.ok()) {
        Error(fmt::format("{}: {}: {}", config_file, full, MessageOf(status)));
      }
    }
    if (handled) continue;
    if (Option* option = FindKey(key)) {
      ReadLeaf(*option, full, item.second);
      continue;
    }
    bool is_prefix = false;
    for (const auto& o : options) is_prefix |= o->info.key.starts_with(key + ".");
    for (const Subtree& s : subtrees) is_prefix |= s.key.starts_with(key + ".");
    if (is_prefix) {
      ReadNode(item.second, full);
    } else {
      Error(UnknownKey(full));
    }
  }
}

void OptionSet::Impl::ReadFile() {
  YAML::Node root;
  try {
    root = YAML::LoadFile(config_file);
  } catch (const std::exception& e) {
    return Error(fmt::format("{}: cannot be read as YAML: {}", config_file, e.what()));
  }
  if (root.IsNull()) return;
  if (!root.IsMap())
    return Error(config_file + ": must be a mapping with the sections up, router, worker, gateway");
  try {
    for (const auto& item : root) {
      const std::string name = item.first.IsScalar() ? item.first.Scalar() : "?";
      if (std::find(kSections.begin(), kSections.end(), name) == kSections.end()) {
        Error(fmt::format("{}: unknown section '{}'{}", config_file, name,
                          NearestHint(name, kSections)));
      } else if (name == section) {
        ReadNode(item.second, section);
      }
    }
  } catch (const std::exception& e) {  // a typed access of a subtree reader
    Error(fmt::format("{}: {}", config_file, e.what()));
  }
}

// From the file and the flags, in this order; then what only all together can tell.
void OptionSet::Impl::Fill() {
  if (!config_file.empty()) ReadFile();
  for (auto& option : options) {
    if (option->from_flags.empty()) continue;
    if (option->repeated) {
      option->clear();
      for (const std::string& text : option->from_flags) Set(*option, option->info.flag, text);
    } else {
      Set(*option, option->info.flag, option->from_flags.back());
    }
  }
  if (errors.empty()) RunChecks(section_checks);
  if (check_section) {
    if (config_file.empty()) Error("--check-section needs --config FILE");
    return;
  }
  for (const auto& option : options) {
    if (option->info.required && !option->given) {
      const bool both = !option->info.flag.empty() && !option->info.key.empty();
      Error(fmt::format("{} is required: {}",
                        option->info.flag.empty() ? option->info.key : option->info.flag,
                        option->info.help) +
            (both && !section.empty()
                 ? fmt::format(" (or {}.{} in --config)", section, option->info.key)
                 : ""));
    }
  }
  if (!errors.empty()) return;
  RunChecks(checks);
}

void OptionSet::Impl::RunChecks(const std::vector<std::function<Status()>>& all) {
  for (const auto& check : all) {
    if (const Status s = check(); !s.ok()) Error(MessageOf(s));
  }
}

Status OptionSet::ParseQuietly(int argc, const char* const* argv) {
  if (impl_->ParseCommandLine(argc, argv)) return InvalidArgument("nothing to parse");
  if (impl_->errors.empty()) impl_->Fill();
  if (impl_->errors.empty()) return absl::OkStatus();
  return InvalidArgument("{}", fmt::join(impl_->errors, "; "));
}

std::optional<int> OptionSet::Parse(int argc, const char* const* argv) {
  Impl& impl = *impl_;
  if (const auto code = impl.ParseCommandLine(argc, argv)) return code;
  impl.Fill();
  for (const std::string& e : impl.errors)
    std::fprintf(stderr, "%s: %s\n", impl.program.c_str(), e.c_str());
  if (!impl.errors.empty()) return 2;
  if (impl.check_config || impl.check_section) {
    std::fprintf(stderr, "%s: the configuration is good\n", impl.program.c_str());
    return 0;
  }
  return std::nullopt;
}

}  // namespace choir
