// What somebody who was recognised may do: the models, from which addresses, in which class of
// admission, within which limits. Of a key, a token or a certificate alike. Plain values, any
// thread. In YAML (a key of the keys file, an entry of router.certificates), each of them optional:
//
//   models: [my-moe]   networks: [10.0.0.0/8, "2001:db8::/32"]   class: bulk
//   limits: {requests_per_second: 5, burst: 5}
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/ip_network.h"
#include "common/base/status.h"
#include "router/base/admission_class.h"
#include "router/base/api_error.h"
#include "router/limits/limit_rules.h"

namespace YAML {
class Emitter;
class Node;
}  // namespace YAML

namespace choir {

struct Rights {
  std::vector<std::string> models;                // empty: all
  std::vector<IpNetwork> networks;                // empty: from everywhere
  std::optional<AdmissionClass> admission_class;  // absent: its tenant's
  LimitRules limits;                              // beside its tenant's

  bool operator==(const Rights&) const = default;
};

inline constexpr size_t kRightsEntriesMax = 256;  // of models, and of networks
inline constexpr size_t kModelNameMax = 512;      // bytes, as of the API

// Each adds one value or says what is wrong with it.
Status AddModel(const std::string& name, Rights* rights);
Status AddNetwork(const std::string& cidr, Rights* rights);
Status SetClass(const std::string& name, Rights* rights);

bool MayUseModel(const Rights& rights, std::string_view model);
// `source` as AddressOfPeer reads it. Where networks are named, a source without an address is in
// none of them.
bool MayComeFrom(const Rights& rights, std::string_view source);
// 403 for the model, then for the source; nullopt when both are right. An empty model is not
// looked at.
std::optional<ApiError> CheckRights(const Rights& rights, std::string_view model,
                                    std::string_view source);

// Reads the field when it is one of rights; false when it is none. May throw YAML::Exception.
StatusOr<bool> ReadRight(const std::string& name, const YAML::Node& value, Rights* rights);
// Those that are set, as fields of the map that is open.
void EmitRights(const Rights& rights, YAML::Emitter* out);
// "class=bulk models=a,b"; empty: no restriction. For people.
std::string RightsText(const Rights& rights);

}  // namespace choir
