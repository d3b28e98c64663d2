// `choir route`: whether a request would run, wait or be refused, which rank it would go to, and
// why; nothing of it is run.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/base/print_error.h"
#include "common/config/options.h"
#include "common/config/state_dir.h"
#include "tools/choir/commands.h"
#include "tools/choir/rest_client.h"
#include "tools/choir/run_file.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;

struct RouteArgs {
  std::string url, state, model, message, prompt, user, admission_class;
  bool json = false;
};

StatusOr<Json> Ask(const RouteArgs& args) {
  CHOIR_ASSIGN_OR_RETURN(const ClusterAddress address, FindCluster(args.url, args.state));
  RestClient client(address.url, address.api_key, address.ca);
  client.SetClass(args.admission_class);
  Json body;
  body["model"] = args.model;
  if (args.model.empty()) {
    CHOIR_ASSIGN_OR_RETURN(body["model"], FirstModel(client));
  }
  if (args.message.empty()) {
    body["prompt"] = args.prompt;
  } else {
    body["messages"] = Json::array({{{"role", "user"}, {"content", args.message}}});
  }
  if (!args.user.empty()) body["user"] = args.user;
  return client.Post("/v1/choir/route", body.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string Outlook(const Json& admission) {
  const std::string outlook = admission.value("outlook", "");
  if (outlook == "runs") return "it would run at once";
  if (outlook == "waits") {
    const Json& wait = admission["wait_seconds"];
    return fmt::format("it would wait, as number {} of its class{}", admission["place"].dump(),
                       wait.is_number() ? fmt::format(", about {:.3g} s", wait.get<double>())
                                        : "; how long is not known yet");
  }
  const Json& later = admission["retry_after"];
  return fmt::format(
      "it would be refused: {} {}: {}{}", admission["status"].dump(), admission.value("code", ""),
      admission.value("message", ""),
      later.is_number() ? fmt::format("; again in {:.3g} s", later.get<double>()) : "");
}

std::string Number(const Json& rank, const char* field) {
  return rank.contains(field) ? rank[field].dump() : "";
}

void PrintTable(const Json& route) {
  const std::string worker =
      route["worker"].is_string() ? route["worker"].get<std::string>() : "nowhere";
  std::printf("%s by %s: %s (%s prompt tokens)\n", worker.c_str(),
              route.value("policy", "").c_str(), route.value("reason", "").c_str(),
              route["prompt_tokens"].dump().c_str());
  const Json& admission = route["admission"];
  std::printf("class %s: %s\n", admission.value("class", "").c_str(), Outlook(admission).c_str());
  std::printf("  %-2s %-10s %10s %10s %10s %10s  %s\n", "", "rank", "cost", "load", "cached",
              "to compute", "");
  for (const Json& rank : route["ranks"]) {
    std::printf("  %-2s %-10s %10s %10s %10s %10s  %s\n", rank.value("picked", false) ? "->" : "",
                rank.value("worker", "").c_str(), Number(rank, "cost").c_str(),
                Number(rank, "load").c_str(), Number(rank, "overlap_tokens").c_str(),
                Number(rank, "to_compute").c_str(), rank.value("excluded", "").c_str());
  }
}

}  // namespace

int RunRoute(int argc, const char* const* argv) {
  RouteArgs args;
  OptionSet options(
      "choir route",
      "Tells whether a request would run, wait or be refused now, which rank it would go "
      "to, and why. Nothing is run.",
      "");
  options.Add(&args.url, {.flag = "--url", .help = "of the REST API [CHOIR_URL, else run.json]"});
  options.Add(&args.state, {.flag = "--state",
                            .help = "state directory of choir up [" + DefaultStateDir() + "]"});
  options.Add(&args.model, {.flag = "--model", .help = "name of the model [the first]"});
  options.Add(&args.message, {.flag = "--message", .help = "a user's message of a chat"});
  options.Add(&args.prompt, {.flag = "--prompt", .help = "or the text of a completion"});
  options.Add(&args.user, {.flag = "--user", .help = "whose request it is, for sticky_user"});
  options.AddChoice(&args.admission_class,
                    {.flag = "--class", .help = "its class, if a lower one than the key's"},
                    {"interactive", "default", "bulk", "system"});
  options.Add(&args.json, {.flag = "--json", .help = "print JSON"});
  options.AddCheck([&args]() -> Status {
    if (args.message.empty() != args.prompt.empty()) return absl::OkStatus();
    return InvalidArgument("either --message or --prompt is needed");
  });
  if (const auto code = options.Parse(argc, argv)) return *code;
  const StatusOr<Json> route = Ask(args);
  if (!route.ok()) {
    PrintError("choir route", route.status());
    return 1;
  }
  if (args.json) {
    std::printf("%s\n", route->dump(2).c_str());
  } else {
    PrintTable(*route);
  }
  const bool refused = route->at("admission").at("outlook") == "refused";
  return refused || route->at("worker").is_null() ? 1 : 0;
}

}  // namespace choir
