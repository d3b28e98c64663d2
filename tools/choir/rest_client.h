// A small blocking client of the REST API over libcurl, for the command line. One thread.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/status.h"

namespace choir {

class RestClient {
 public:
  // `ca`: as ClusterAddress's.
  RestClient(std::string url, std::string api_key, std::string ca)
      : url_(std::move(url)), api_key_(std::move(api_key)), ca_(std::move(ca)) {}

  // Requests from now on ask for this class of admission; empty: for their key's.
  void SetClass(std::string name) { class_ = std::move(name); }

  // An error answer becomes a status with the server's message.
  StatusOr<nlohmann::ordered_json> Get(const std::string& path) const;
  StatusOr<nlohmann::ordered_json> Post(const std::string& path, const std::string& body) const;
  // Server-sent events until [DONE]; `event` returns false to cancel.
  Status Stream(const std::string& path, const std::string& body,
                const std::function<bool(const nlohmann::ordered_json&)>& event) const;

 private:
  StatusOr<nlohmann::ordered_json> Ask(const std::string& path, const std::string* body) const;
  Status Perform(const std::string& path, const std::string* body,
                 const std::function<bool(const char*, size_t)>& data, long* code) const;
  const std::string url_, api_key_, ca_;
  std::string class_;
};

// The name of the first model served; NotFound when there is none.
StatusOr<std::string> FirstModel(const RestClient& client);

}  // namespace choir
