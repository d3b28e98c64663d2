#include "tools/choir/run_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/base/environment.h"

namespace choir {

StatusOr<nlohmann::ordered_json> ReadRunFile(const std::string& state) {
  const std::string path = (state.empty() ? DefaultStateDir() : state) + "/run.json";
  std::ifstream in(path);
  if (!in)
    return NotFound(
        "no cluster runs here ({} is absent); start one with 'choir up --model DIR', or give --url",
        path);
  // choir up holds the lock while it lives; after kill -9 its files stay.
  const std::string lock = (state.empty() ? DefaultStateDir() : state) + "/lock";
  const int fd = open(lock.c_str(), O_RDONLY | O_CLOEXEC);
  const bool gone = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) == 0;
  if (fd >= 0) close(fd);
  if (gone) {
    return NotFound("the cluster of {} is gone (choir up was killed); start it again", path);
  }
  auto json = nlohmann::ordered_json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return InvalidArgument("{}: is not the JSON that choir up writes", path);
  return json;
}

StatusOr<ClusterAddress> FindCluster(const std::string& url, const std::string& state) {
  ClusterAddress out{.url = url.empty() ? Environment("CHOIR_URL") : url,
                     .api_key = Environment("CHOIR_API_KEY"),
                     .ca = Environment("CHOIR_CA")};
  while (out.url.ends_with('/')) out.url.pop_back();
  if (!out.url.empty() && !out.api_key.empty()) return out;
  const auto run = ReadRunFile(state);
  if (!run.ok()) {
    if (out.url.empty()) return run.status();
    return NotFound("no API key for {}: set CHOIR_API_KEY", out.url);
  }
  if (out.ca.empty() && run->contains("tls")) out.ca = (*run)["tls"].value("ca", "");
  if (out.url.empty()) out.url = run->value("url", "");
  if (out.api_key.empty()) out.api_key = run->value("api_key", "");
  return out;
}

}  // namespace choir
