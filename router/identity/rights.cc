#include "router/identity/rights.h"

#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <functional>

namespace choir {
namespace {

Status ReadList(const std::string& name, const YAML::Node& value,
                const std::function<Status(const std::string&)>& add) {
  // An empty list would read as "nothing" and mean "everything".
  if (!value.IsSequence() || value.size() == 0) {
    return InvalidArgument("{}: a list of at least one is needed", name);
  }
  for (const YAML::Node& one : value) {
    if (!one.IsScalar()) return InvalidArgument("{}: a list of texts is needed", name);
    CHOIR_RETURN_IF_ERROR(add(one.as<std::string>()));
  }
  return absl::OkStatus();
}

Status ReadLimits(const YAML::Node& value, LimitRules* limits) {
  if (!value.IsMap()) return InvalidArgument("limits: a map is needed");
  for (const auto& rule : value) {
    if (!rule.second.IsScalar()) return InvalidArgument("limits: numbers are needed");
    const Status set =
        SetLimitRule(rule.first.as<std::string>(), rule.second.as<std::string>(), limits);
    if (!set.ok()) return Annotate(set, "limits");
  }
  return Annotate(CompleteLimitRules(limits), "limits");
}

std::vector<std::string> Texts(const std::vector<IpNetwork>& networks) {
  std::vector<std::string> texts;
  for (const IpNetwork& network : networks) texts.push_back(network.Text());
  return texts;
}

void EmitList(const char* name, const std::vector<std::string>& values, YAML::Emitter* out) {
  if (values.empty()) return;
  *out << YAML::Key << name << YAML::Value << YAML::Flow << YAML::BeginSeq;
  for (const std::string& value : values) *out << YAML::DoubleQuoted << value;
  *out << YAML::EndSeq;
}

ApiError PermissionError(std::string message, std::string param) {
  return {.http = 403,
          .type = "permission_error",
          .code = "permission_denied",
          .message = std::move(message),
          .param = std::move(param)};
}

}  // namespace

Status AddModel(const std::string& name, Rights* rights) {
  if (name.empty() || name.size() > kModelNameMax) {
    return InvalidArgument("models: a name of 1 to {} bytes is needed", kModelNameMax);
  }
  if (rights->models.size() >= kRightsEntriesMax) {
    return InvalidArgument("models: more than {}", kRightsEntriesMax);
  }
  rights->models.push_back(name);
  return absl::OkStatus();
}

Status AddNetwork(const std::string& cidr, Rights* rights) {
  if (rights->networks.size() >= kRightsEntriesMax) {
    return InvalidArgument("networks: more than {}", kRightsEntriesMax);
  }
  auto network = IpNetwork::Parse(cidr);
  if (!network.ok()) return Annotate(network.status(), "networks");
  rights->networks.push_back(*std::move(network));
  return absl::OkStatus();
}

Status SetClass(const std::string& name, Rights* rights) {
  rights->admission_class = ParseAdmissionClass(name);
  if (rights->admission_class) return absl::OkStatus();
  return InvalidArgument("class: '{}' is none of interactive, default, bulk, system",
                         name.substr(0, 64));
}

bool MayUseModel(const Rights& rights, std::string_view model) {
  return rights.models.empty() ||
         std::find(rights.models.begin(), rights.models.end(), model) != rights.models.end();
}

bool MayComeFrom(const Rights& rights, std::string_view source) {
  if (rights.networks.empty()) return true;
  const auto address = AddressOfPeer(source);
  return address && ContainsAddress(rights.networks, *address);
}

std::optional<ApiError> CheckRights(const Rights& rights, std::string_view model,
                                    std::string_view source) {
  if (!model.empty() && !MayUseModel(rights, model)) {
    return PermissionError(fmt::format("this key may not use the model '{}'", model), "model");
  }
  if (MayComeFrom(rights, source)) return std::nullopt;
  const auto address = AddressOfPeer(source);
  return PermissionError(fmt::format("this key may not be used from {}",
                                     address ? address->Text() : "an unknown address"),
                         "");
}

StatusOr<bool> ReadRight(const std::string& name, const YAML::Node& value, Rights* rights) {
  Status read = absl::OkStatus();
  if (name == "models") {
    read = ReadList(name, value, [&](const std::string& one) { return AddModel(one, rights); });
  } else if (name == "networks") {
    read = ReadList(name, value, [&](const std::string& one) { return AddNetwork(one, rights); });
  } else if (name == "class") {
    read = value.IsScalar() ? SetClass(value.as<std::string>(), rights)
                            : InvalidArgument("class: a text is needed");
  } else if (name == "limits") {
    read = ReadLimits(value, &rights->limits);
  } else {
    return false;
  }
  CHOIR_RETURN_IF_ERROR(read);
  return true;
}

void EmitRights(const Rights& rights, YAML::Emitter* out) {
  EmitList("models", rights.models, out);
  EmitList("networks", Texts(rights.networks), out);
  if (rights.admission_class) {
    *out << YAML::Key << "class" << YAML::Value << AdmissionClassName(*rights.admission_class);
  }
  if (rights.limits.empty()) return;
  *out << YAML::Key << "limits" << YAML::Value << YAML::Flow << YAML::BeginMap;
  for (const auto& [name, value] : FormatLimitRules(rights.limits)) {
    *out << YAML::Key << name << YAML::Value << value;
  }
  *out << YAML::EndMap;
}

std::string RightsText(const Rights& rights) {
  std::vector<std::string> parts;
  if (rights.admission_class) {
    parts.push_back(fmt::format("class={}", AdmissionClassName(*rights.admission_class)));
  }
  if (!rights.models.empty())
    parts.push_back(fmt::format("models={}", fmt::join(rights.models, ",")));
  if (!rights.networks.empty()) {
    parts.push_back(fmt::format("networks={}", fmt::join(Texts(rights.networks), ",")));
  }
  for (const auto& [name, value] : FormatLimitRules(rights.limits)) {
    parts.push_back(fmt::format("{}={}", name, value));
  }
  return fmt::format("{}", fmt::join(parts, " "));
}

}  // namespace choir
