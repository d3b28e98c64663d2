#include "worker/lws_environment.h"

#include <charconv>

namespace choir {
namespace {

StatusOr<int64_t> Number(const char* name, const char* text, int64_t max) {
  const std::string value = text == nullptr ? "" : text;
  int64_t number = -1;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  const bool whole = error == std::errc() && end == value.data() + value.size();
  if (whole && number >= 0 && number <= max) return number;
  return InvalidArgument("{}={}: beside LWS_LEADER_ADDRESS a number of 0 to {} is needed", name,
                         value, max);
}

// "choir-3.choir.default" is the leader of group 3.
int64_t GroupOf(const std::string& leader) {
  const std::string label = leader.substr(0, leader.find('.'));
  const size_t dash = label.rfind('-');
  if (dash == std::string::npos) return 0;
  return Number("", label.c_str() + dash + 1, 65535).value_or(0);
}

}  // namespace

StatusOr<std::optional<LwsEnvironment>> ReadLwsEnvironment(
    const std::function<const char*(const char* name)>& get) {
  const char* leader = get("LWS_LEADER_ADDRESS");
  if (leader == nullptr || *leader == 0) return std::optional<LwsEnvironment>();
  LwsEnvironment lws{.leader = leader, .group = GroupOf(leader)};
  CHOIR_ASSIGN_OR_RETURN(lws.size, Number("LWS_GROUP_SIZE", get("LWS_GROUP_SIZE"), 64));
  CHOIR_ASSIGN_OR_RETURN(lws.index, Number("LWS_WORKER_INDEX", get("LWS_WORKER_INDEX"), 63));
  return std::optional(lws);
}

}  // namespace choir
