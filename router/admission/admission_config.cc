#include "router/admission/admission_config.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cmath>
#include <vector>

#include "common/config/options.h"
#include "common/config/yaml_map.h"

namespace choir {
namespace {

constexpr uint64_t kQueueMax = 1'000'000;
constexpr uint64_t kAheadMax = 1024;
constexpr double kSequencesMax = 1e6;

Amount Share(double percent) { return {.is_share = true, .value = percent / 100}; }

Status ReadTime(const std::string& text, Duration* out) {
  const StatusOr<Duration> time = ParseDuration(text);
  const bool good =
      time.ok() && *time >= std::chrono::milliseconds(1) && *time <= std::chrono::hours(24);
  if (!good) return InvalidArgument("'{}' is not a time from 1ms to 24h, as 30s", text);
  *out = *time;
  return absl::OkStatus();
}

Status ReadRule(const std::string& name, const std::string& text, ClassRules* rules) {
  if (name == "queue") {
    CHOIR_ASSIGN_OR_RETURN(rules->queue, ParseInteger(text, 0, kQueueMax));
    return absl::OkStatus();
  }
  if (name == "queue_timeout") return ReadTime(text, &rules->queue_timeout);
  if (name == "ageing") return ReadTime(text, &rules->ageing);
  Amount* const amount = name == "floor"     ? &rules->floor
                         : name == "ceiling" ? &rules->ceiling
                                             : nullptr;
  if (amount != nullptr) {
    CHOIR_ASSIGN_OR_RETURN(*amount, ParseAmount(text));
    return absl::OkStatus();
  }
  return InvalidArgument("unknown key{}", NearestOrAllHint(name, {"floor", "ceiling", "queue",
                                                                  "queue_timeout", "ageing"}));
}

// A floor above its ceiling is never reached; floors that keep more than there is starve all
// others.
Status Check(const AdmissionConfig& config) {
  double kept = 0;
  for (const AdmissionClass c : kAdmissionClasses) {
    const ClassRules& rules = config.of(c);
    const std::string name = AdmissionClassName(c);
    if (rules.ceiling.value <= 0) {
      return InvalidArgument("{}: ceiling: must be above 0, or nothing of the class ever runs",
                             name);
    }
    if (rules.floor.is_share == rules.ceiling.is_share && rules.floor.value > rules.ceiling.value) {
      return InvalidArgument("{}: floor: {} is above the ceiling, {}", name, rules.floor.Text(),
                             rules.ceiling.Text());
    }
    if (rules.floor.is_share) kept += rules.floor.value;
  }
  if (kept <= 1 + 1e-9) return absl::OkStatus();
  return InvalidArgument("the floors of all classes together are {:.10g}%, must be at most 100%",
                         kept * 100);
}

}  // namespace

uint64_t Amount::Of(uint64_t total) const {
  // A share of 100 % is all of it, whatever doubles make of it.
  const double amount = is_share ? static_cast<double>(total) * value + 1e-9 : value;
  return static_cast<uint64_t>(amount);
}

std::string Amount::Text() const {
  return is_share ? fmt::format("{:.10g}%", value * 100) : fmt::format("{:.0f}", value);
}

StatusOr<Amount> ParseAmount(const std::string& text) {
  const bool share = !text.empty() && text.back() == '%';
  const char* const end = text.data() + text.size() - (share ? 1 : 0);
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  const bool number = !text.empty() && error == std::errc() && rest == end && value >= 0;
  if (number && share && value <= 100) return Share(value);
  if (number && !share && value <= kSequencesMax && value == std::floor(value)) {
    return Amount{.is_share = false, .value = value};
  }
  return InvalidArgument(
      "'{}' is neither a number of sequences from 0 to 1000000, as 8, nor a share of what all "
      "ranks "
      "run at once from 0% to 100%, as 25%",
      text);
}

AdmissionConfig::AdmissionConfig() {
  using std::chrono::seconds;
  const auto set = [this](AdmissionClass c, double floor, uint64_t queue, Duration timeout,
                          Duration ageing) {
    of(c) = {.floor = Share(floor),
             .ceiling = Share(100),
             .queue = queue,
             .queue_timeout = timeout,
             .ageing = ageing};
  };
  set(AdmissionClass::kSystem, 0, 1'000, seconds(30), seconds(1));
  set(AdmissionClass::kInteractive, 5, 10'000, seconds(60), seconds(2));
  set(AdmissionClass::kDefault, 5, 10'000, seconds(600), seconds(5));
  set(AdmissionClass::kBulk, 0, 10'000, seconds(3600), seconds(30));
}

Status ReadAdmission(const YAML::Node& node, AdmissionConfig* config) {
  CHOIR_RETURN_IF_ERROR(
      ReadYamlMap(node, [&](const std::string& name, const YAML::Node& value) -> Status {
        if (name == "ahead") {
          CHOIR_ASSIGN_OR_RETURN(
              config->ahead, ParseInteger(value.IsScalar() ? value.Scalar() : "", 0, kAheadMax));
          return absl::OkStatus();
        }
        const std::optional<AdmissionClass> c = ParseAdmissionClass(name);
        if (!c) {
          return InvalidArgument(
              "unknown key{}",
              NearestOrAllHint(name, {"ahead", "interactive", "default", "bulk", "system"}));
        }
        return ReadYamlMap(value, [&](const std::string& rule, const YAML::Node& text) -> Status {
          if (!text.IsScalar()) return InvalidArgument("must be a single value");
          return ReadRule(rule, text.Scalar(), &config->of(*c));
        });
      }));
  return Check(*config);
}

}  // namespace choir
