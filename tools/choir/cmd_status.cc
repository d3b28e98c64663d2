// `choir status`: every process of the running cluster, what it holds and why it is not ready.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "common/base/print_error.h"
#include "common/config/options.h"
#include "tools/choir/commands.h"
#include "tools/choir/rest_client.h"
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

// The queues of a router.
void PrintAdmission(const Json& admission) {
  const auto field = [](const Json& of, const char* name) {
    const Json value = of.value(name, Json());
    return value.is_null() ? std::string("-") : Plain(value);
  };
  std::printf("      admission          %s of %s requests, seats %s, free %s\n",
              field(admission, "held").c_str(), field(admission, "held_max").c_str(),
              field(admission, "seats").c_str(), field(admission, "free_seats").c_str());
  std::printf("      %-12s %8s %8s %8s %10s %8s %8s %8s %8s\n", "class", "waiting", "queue",
              "tenants", "tokens", "running", "floor", "ceiling", "wait s");
  const Json classes = admission.value("classes", Json::object());
  for (const auto& [name, of] : classes.items()) {
    std::printf("      %-12s %8s %8s %8s %10s %8s %8s %8s %8s\n", name.c_str(),
                field(of, "waiting").c_str(), field(of, "queue").c_str(),
                field(of, "waiting_tenants").c_str(), field(of, "waiting_tokens").c_str(),
                field(of, "running_sequences").c_str(), field(of, "floor").c_str(),
                field(of, "ceiling").c_str(), field(of, "wait_seconds").c_str());
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
      } else if (key == "admission" && value.is_object()) {
        PrintAdmission(value);
      } else if (key == "last_step" && value.is_number()) {
        std::printf("      %-18s %s\n", key.c_str(), TimeOf(value.get<double>()).c_str());
      } else {
        std::printf("      %-18s %s\n", key.c_str(), Plain(value).c_str());
      }
    }
  }
}

// A cluster that was not started here, seen through its gateway: its router and, by it, its
// workers.
StatusOr<Json> AskGateway(const ClusterAddress& address) {
  const RestClient client(address.url, address.api_key, address.ca);
  CHOIR_ASSIGN_OR_RETURN(Json status, client.Get("/v1/choir/status"));
  const bool ready = status.value("ready", false);
  Json process = {{"part", "router"},
                  {"pid", nullptr},
                  {"ready", ready},
                  {"reason", status.value("reason", "")},
                  {"status", std::move(status)}};
  return Json{{"url", address.url}, {"ready", ready}, {"processes", Json::array({process})}};
}

// Every process where run.json is of that cluster, else what its gateway tells.
StatusOr<Json> Find(const std::string& url, const std::string& state) {
  const StatusOr<Json> run = ReadRunFile(state);
  const StatusOr<ClusterAddress> address = FindCluster(url, state);
  if (!address.ok()) return address.status();
  if (!run.ok() || run->value("url", "") != address->url) return AskGateway(*address);
  try {
    return Collect(*run);
  } catch (const Json::exception& e) {
    return InvalidArgument("run.json is not what choir up writes: {}", e.what());
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
                     .help = "of the REST API: what its router knows [CHOIR_URL, else every "
                             "process of the running choir up]"});
  options.Add(&state, {.flag = "--state",
                       .help = "state directory of choir up [" + DefaultStateDir() + "]"});
  options.Add(&json, {.flag = "--json", .help = "print JSON"});
  if (const auto code = options.Parse(argc, argv)) return *code;
  const StatusOr<Json> found = Find(url, state);
  if (!found.ok()) {
    PrintError("choir status", found.status());
    return 1;
  }
  Json all = *found;
  if (json) {
    std::printf("%s\n", all.dump(2).c_str());
  } else {
    PrintTable(all);
  }
  return all["ready"].get<bool>() ? 0 : 1;
}

}  // namespace choir
