#include "tools/up/part_settings.h"

#include <yaml-cpp/yaml.h>

#include <exception>

namespace choir {
namespace {

using Values = std::map<std::pair<Part, std::string>, std::string>;

struct Section {
  const char* name;
  Part part;
};
constexpr Section kSections[] = {
    {"router", Part::kRouter}, {"worker", Part::kWorker}, {"gateway", Part::kGateway}};

struct OwnKey {
  Part part;
  const char* key;
  const char* remedy;
  bool tls_only = false;  // up to the file, unless `up` makes the certificates
};
constexpr char kAddress[] = "choir up picks it, run.json names it; leave it out";
constexpr char kPlace[] = "choir up picks it for each worker; leave it out";
constexpr char kModel[] = "give up.model (--model)";
constexpr char kModelName[] = "give up.model_name (--model-name)";
constexpr char kMadeTls[] = "choir up makes the certificates between its parts; leave it out";
constexpr OwnKey kOwnKeys[] = {
    {Part::kRouter, "listen", kAddress},
    {Part::kRouter, "admin", kAddress},
    {Part::kRouter, "model", kModel},
    {Part::kRouter, "model_name", kModelName},
    {Part::kRouter, "workers", "choir up names its own workers; for more give workers_file"},
    {Part::kRouter, "tls.cert", kMadeTls, true},
    {Part::kRouter, "tls.key", kMadeTls, true},
    {Part::kRouter, "tls.ca", kMadeTls, true},
    {Part::kWorker, "listen", kAddress},
    {Part::kWorker, "admin", kAddress},
    {Part::kWorker, "model", kModel},
    {Part::kWorker, "model_name", kModelName},
    {Part::kWorker, "group", kPlace},
    {Part::kWorker, "rank", kPlace},
    {Part::kWorker, "pod", kPlace},
    {Part::kWorker, "leader", kPlace},
    {Part::kWorker, "ranks", "give up.ranks (--ranks)"},
    {Part::kWorker, "tls.cert", kMadeTls, true},
    {Part::kWorker, "tls.key", kMadeTls, true},
    {Part::kWorker, "tls.ca", kMadeTls, true},
    {Part::kGateway, "listen", "give up.listen (--listen)"},
    {Part::kGateway, "admin", kAddress},
    {Part::kGateway, "routers", "choir up names its own routers; leave it out"},
    {Part::kGateway, "tls.cert", "give up.tls_cert (--tls-cert)", true},
    {Part::kGateway, "tls.key", "give up.tls_key (--tls-key)", true},
    {Part::kGateway, "router_tls.cert", kMadeTls, true},
    {Part::kGateway, "router_tls.key", kMadeTls, true},
    {Part::kGateway, "router_tls.ca", kMadeTls, true},
};

const char* NameOf(Part part) {
  for (const Section& section : kSections) {
    if (section.part == part) return section.name;
  }
  return "";
}

void Collect(Part part, const std::string& prefix, const YAML::Node& node, Values* values) {
  if (node.IsNull()) return;  // as if absent
  if (!node.IsMap()) {
    (*values)[{part, prefix}] = node.IsScalar() ? node.Scalar() : "";
    return;
  }
  for (const auto& item : node) {
    if (!item.first.IsScalar()) continue;
    const std::string& name = item.first.Scalar();
    Collect(part, prefix.empty() ? name : prefix + "." + name, item.second, values);
  }
}

}  // namespace

PartSettings::PartSettings(const std::string& config_file) : file_(config_file) {
  if (file_.empty()) return;
  try {
    const YAML::Node root = YAML::LoadFile(file_);
    if (!root.IsMap()) return;
    for (const auto& [name, part] : kSections) {
      if (root[name]) Collect(part, "", root[name], &values_);
    }
  } catch (const std::exception&) {
    values_.clear();
  }
}

Status PartSettings::Check(bool tls) const {
  std::string wrong;
  for (const OwnKey& own : kOwnKeys) {
    if (!Has(own.part, own.key) || (own.tls_only && !tls)) continue;
    wrong += fmt::format("{}{}: {}.{} cannot be set under choir up: {}", wrong.empty() ? "" : "\n",
                         file_, NameOf(own.part), own.key, own.remedy);
  }
  return wrong.empty() ? absl::OkStatus() : InvalidArgument("{}", wrong);
}

std::optional<std::string> PartSettings::Get(Part part, const std::string& key) const {
  const auto it = values_.find({part, key});
  return it == values_.end() ? std::nullopt : std::optional(it->second);
}

}  // namespace choir
