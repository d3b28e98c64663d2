// The classes by which requests are admitted. A key, token or certificate has one; a request may
// ask for a lower one than its own, never for a higher one. Plain values, any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace choir {

// Highest first. `system` is the operator's own (probes, canaries), so nobody may lower itself to
// it.
enum class AdmissionClass { kSystem, kInteractive, kDefault, kBulk };
inline constexpr size_t kNumAdmissionClasses = 4;

inline constexpr AdmissionClass kAdmissionClasses[] = {
    AdmissionClass::kSystem, AdmissionClass::kInteractive, AdmissionClass::kDefault,
    AdmissionClass::kBulk};

// "interactive", "default", "bulk", "system": as in configuration, headers and metrics.
const char* AdmissionClassName(AdmissionClass value);
// nullopt: none of these names.
std::optional<AdmissionClass> ParseAdmissionClass(std::string_view name);

// The class that a holder of `granted` gets who asks for `asked`: the lower of the two.
constexpr AdmissionClass LowerOf(AdmissionClass granted, AdmissionClass asked) {
  return granted > asked ? granted : asked;
}

}  // namespace choir
