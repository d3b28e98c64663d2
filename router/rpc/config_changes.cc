#include "router/rpc/config_changes.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <exception>
#include <map>
#include <utility>

#include "common/base/log.h"
#include "common/config/file_watch.h"

namespace choir {
namespace {

constexpr char kSection[] = "router";

using Values = std::map<std::string, std::string>;

// As FollowedOptions has them.
bool IsFollowed(const std::string& key) {
  for (const char* name : {"tenants", "limits", "admission", "policy", "content_rules"}) {
    if (key == std::string(kSection) + "." + name) return true;
  }
  return false;
}

// The same for the same value, however it is written.
std::string Text(const YAML::Node& node) {
  if (node.IsScalar()) return fmt::format("{}:{}", node.Scalar().size(), node.Scalar());
  std::string text = "(";
  for (const auto& item : node) {
    text += node.IsMap() ? Text(item.first) + "=" + Text(item.second) : Text(item);
  }
  return text + ")";
}

void Collect(const std::string& key, const YAML::Node& node, Values* values) {
  if (IsFollowed(key) || node.IsNull()) return;
  if (!node.IsMap()) {
    (*values)[key] = Text(node);
    return;
  }
  for (const auto& item : node) {
    if (item.first.IsScalar()) Collect(key + "." + item.first.Scalar(), item.second, values);
  }
}

Values Read(const std::string& text) {
  Values values;
  try {
    const YAML::Node root = YAML::Load(text);
    if (root.IsMap() && root[kSection]) Collect(kSection, root[kSection], &values);
  } catch (const std::exception&) {
    values.clear();
  }
  return values;
}

}  // namespace

ConfigChanges::ConfigChanges(std::string file)
    : file_(std::move(file)), at_start_(ReadSmallFile(file_).value_or("")) {}

const std::vector<std::string>& ConfigChanges::OnRead(const std::string& text) {
  std::vector<std::string> changed = KeysForTheNextStart(at_start_, text);
  if (!changed.empty() && changed != told_) {
    CHOIR_LOG(warn, "{}: changed, but taken up at the next start only: {}", file_,
              fmt::join(changed, ", "));
  }
  told_ = std::move(changed);
  return told_;
}

std::vector<std::string> KeysForTheNextStart(const std::string& at_start, const std::string& now) {
  const Values before = Read(at_start), after = Read(now);
  std::vector<std::string> keys;
  const auto add_changed = [&keys](const Values& of, const Values& other) {
    for (const auto& [key, value] : of) {
      const auto it = other.find(key);
      if (it == other.end() || it->second != value) keys.push_back(key);
    }
  };
  add_changed(before, after);
  add_changed(after, before);
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

}  // namespace choir
