// `choir status`: every process of the running cluster, what it holds and why it is not ready.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "common/config/options.h"
#include "tools/choir/commands.h"
#include "tools/choir/run_file.h"
#include "tools/up/cluster.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

// One process, asked on its admin port (known by its metrics URL).
Json AskProcess(const std::string& part, const std::string& metrics_url, const Json& pid) {
  const std::string base = metrics_url.substr(0, metrics_url.rfind("/metrics"));
  Json out = {{"part", part}, {"admin", base}, {"pid", pid}};
  const auto [code, reason] = HttpGet(base + "/readyz", std::chrono::seconds(2));
  out["ready"] = code == 200;
  if (code == 0) {
    out["reason"] = "its admin port does not answer";
  } else if (code != 200) {
    out["reason"] = reason.substr(0, reason.find_last_not_of('\n') + 1);
  }
  const auto [status_code, text] = HttpGet(base + "/statusz", std::chrono::seconds(2));
  Json status = Json::parse(text, nullptr, false);
  out["status"] = status_code == 200 && status.is_object() ? std::move(status) : Json();
  return out;
}

Json Collect(const Json& run) {
  Json out = {{"url", run.value("url", "")},
              {"state", run.value("state", "")},
              {"processes", Json::array()}};
  const Json& metrics = run.at("metrics");
  const Json& pids = run.at("pids");
  out["processes"].push_back(AskProcess("gateway", metrics.at("gateway"), pids.at("gateway")));
  if (metrics.contains("routers")) {
    for (size_t i = 0; i < metrics["routers"].size(); ++i) {
      out["processes"].push_back(
          AskProcess("router " + std::to_string(i), metrics["routers"][i], pids["routers"][i]));
    }
  } else {
    out["processes"].push_back(AskProcess("router", metrics.at("router"), pids.at("router")));
  }
  for (size_t i = 0; i < metrics.at("workers").size(); ++i) {
    out["processes"].push_back(
        AskProcess("worker " + std::to_string(i), metrics["workers"][i], pids.at("workers")[i]));
  }
  bool ready = true;
  for (const Json& p : out["processes"]) ready &= p["ready"].get<bool>();
  out["ready"] = ready;
  return out;
}

std::string Plain(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return value.dump();
  std::string out;
  for (const auto& [key, item] : value.items()) {
    out += (out.empty() ? "" : "  ") + key + " " +
           (item.is_object() ? "{" + Plain(item) + "}" : Plain(item));
  }
  return out;
}

// What a person wants of a worker, as the router sees it.
void PrintWorkers(const Json& workers) {
  std::printf("      %-8s %-10s %-5s %-4s %-14s %7s %7s %10s  %s\n", "worker", "state", "group",
              "rank", "epoch", "running", "waiting", "kv tokens", "");
  for (const Json& w : workers) {
    std::printf("      %-8s %-10s %-5s %-4s %-14s %7s %7s %10s  %s\n",
                Plain(w.value("worker", Json())).c_str(), Plain(w.value("state", Json())).c_str(),
                Plain(w.value("group", Json())).c_str(), Plain(w.value("rank", Json())).c_str(),
                Plain(w.value("epoch", Json())).c_str(), Plain(w.value("running", Json())).c_str(),
                Plain(w.value("waiting", Json())).c_str(),
                Plain(w.value("kv_tokens_used", Json())).c_str(),
                Plain(w.value("reason", Json(""))).c_str());
  }
}

std::string TimeOf(double unix_seconds) {
  const std::time_t seconds = static_cast<std::time_t>(unix_seconds);
  std::tm utc{};
  char text[32];
  gmtime_r(&seconds, &utc);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

void PrintTable(const Json& all) {
  std::printf("%s  %s\n", Plain(all["url"]).c_str(),
              all["ready"].get<bool>() ? "ready" : "NOT READY");
  for (const Json& p : all["processes"]) {
    std::printf("  %-10s pid %-8s %-9s %s\n", Plain(p["part"]).c_str(), Plain(p["pid"]).c_str(),
                p["ready"].get<bool>() ? "ready" : "not ready", p.value("reason", "").c_str());
    if (!p["status"].is_object()) continue;
    for (const auto& [key, value] : p["status"].items()) {
      static constexpr const char* kShownAbove[] = {"part", "draining", "ready", "reason"};
      if (std::find(std::begin(kShownAbove), std::end(kShownAbove), key) != std::end(kShownAbove))
        continue;
      if (key == "workers" && value.is_array()) {
        PrintWorkers(value);
      } else if (key == "last_step" && value.is_number()) {
        std::printf("      %-18s %s\n", key.c_str(), TimeOf(value.get<double>()).c_str());
      } else {
        std::printf("      %-18s %s\n", key.c_str(), Plain(value).c_str());
      }
    }
  }
}

}  // namespace

int RunStatus(int argc, const char* const* argv) {
  std::string url, state;
  bool json = false;
  OptionSet options(
      "choir status",
      "Shows the running cluster: processes, groups, load, reasons for not being ready.", "");
  options.Add(&url, {.flag = "--url",
                     .help = "of the REST API; must be the cluster of the state directory"});
  options.Add(&state, {.flag = "--state",
                       .help = "state directory of choir up [" + DefaultStateDir() + "]"});
  options.Add(&json, {.flag = "--json", .help = "print JSON"});
  if (const auto code = options.Parse(argc, argv)) return *code;
  const auto run = ReadRunFile(state);
  if (!run.ok()) {
    std::fprintf(stderr, "choir status: %s\n", MessageOf(run.status()).c_str());
    return 1;
  }
  if (!url.empty() && url != run->value("url", "")) {
    std::fprintf(stderr,
                 "choir status: the cluster at %s was not started from this state directory (%s "
                 "runs here); give its --state\n",
                 url.c_str(), run->value("url", "").c_str());
    return 1;
  }
  Json all;
  try {
    all = Collect(*run);
  } catch (const Json::exception& e) {
    std::fprintf(stderr, "choir status: run.json is not what choir up writes: %s\n", e.what());
    return 1;
  }
  if (json) {
    std::printf("%s\n", all.dump(2).c_str());
  } else {
    PrintTable(all);
  }
  return all["ready"].get<bool>() ? 0 : 1;
}

}  // namespace choir
