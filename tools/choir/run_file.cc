#include "tools/choir/run_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

namespace choir {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string DefaultStateDir() {
  const std::string base = Environment("XDG_STATE_HOME");
  if (!base.empty()) return base + "/choir";
  const std::string home = Environment("HOME");
  return (home.empty() ? "/var/lib" : home + "/.local/state") + "/choir";
}

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
                     .api_key = Environment("CHOIR_API_KEY")};
  if (!out.url.empty() && !out.api_key.empty()) return out;
  const auto run = ReadRunFile(state);
  if (!run.ok()) {
    if (out.url.empty()) return run.status();
    return NotFound("no API key for {}: set CHOIR_API_KEY", out.url);
  }
  if (out.url.empty()) out.url = run->value("url", "");
  if (out.api_key.empty()) out.api_key = run->value("api_key", "");
  while (out.url.ends_with('/')) out.url.pop_back();
  return out;
}

}  // namespace choir
