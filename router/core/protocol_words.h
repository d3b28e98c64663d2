// Words of the protocol, which chat templates look at: the client cannot say anything by them.
// Pure; any thread.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace choir {

// `value` of the field `key`.
bool IsProtocolWord(const std::string& key, const nlohmann::ordered_json& value);
bool IsProtocolKey(const std::string& key);

}  // namespace choir
