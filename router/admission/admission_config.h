// What the classes of admission may take, as configured (YAML under `router`):
//
//   admission:
//     ahead: 2           sequences that a rank is given beyond those it runs at once
//     interactive: {floor: 5%, ceiling: 100%, queue: 10000, queue_timeout: 60s, ageing: 5s}
//     default: {...}   bulk: {...}   system: {...}
//
// Plain values; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "router/base/admission_class.h"

namespace YAML {
class Node;
}

namespace choir {

// A number of sequences ("8"), or a share of those that all ranks are given at once ("25%").
struct Amount {
  bool is_share = false;
  double value = 0;  // a share of 1, or a number

  // Rounded down.
  uint64_t Of(uint64_t total) const;
  std::string Text() const;
  bool operator==(const Amount&) const = default;
};
StatusOr<Amount> ParseAmount(const std::string& text);

struct ClassRules {
  Amount floor;              // kept free for this class by the others
  Amount ceiling;            // at once of this class, though there is room
  uint64_t queue = 0;        // requests that may wait, 0..1'000'000
  Duration queue_timeout{};  // 1ms..24h
  // Having requests waiting and passed over for so long, it gets the next free place, before higher
  // classes; if it has nothing running, also one that others keep. 1ms..24h
  Duration ageing{};
  bool operator==(const ClassRules&) const = default;
};

// What a tenant has of the queue.
struct TenantStanding {
  AdmissionClass admission_class = AdmissionClass::kDefault;
  double weight = 1;
  bool operator==(const TenantStanding&) const = default;
};

struct AdmissionConfig {
  AdmissionConfig();  // the defaults

  ClassRules& of(AdmissionClass c) { return classes[static_cast<size_t>(c)]; }
  const ClassRules& of(AdmissionClass c) const { return classes[static_cast<size_t>(c)]; }

  std::array<ClassRules, kNumAdmissionClasses> classes;
  uint64_t ahead = 2;                             // 0..1024
  std::map<std::string, TenantStanding> tenants;  // others have TenantStanding's values
  bool operator==(const AdmissionConfig&) const = default;
};

// Reads the subtree `router.admission` over the defaults. Unknown names, doubled names, bad values
// and rules that contradict each other are errors that name the place below the subtree.
Status ReadAdmission(const YAML::Node& node, AdmissionConfig* config);

}  // namespace choir
