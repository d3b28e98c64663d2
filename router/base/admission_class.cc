#include "router/base/admission_class.h"

namespace choir {

const char* AdmissionClassName(AdmissionClass value) {
  switch (value) {
    case AdmissionClass::kInteractive:
      return "interactive";
    case AdmissionClass::kDefault:
      return "default";
    case AdmissionClass::kBulk:
      return "bulk";
    case AdmissionClass::kSystem:
      return "system";
  }
  return "?";
}

std::optional<AdmissionClass> ParseAdmissionClass(std::string_view name) {
  for (const AdmissionClass value : kAdmissionClasses) {
    if (name == AdmissionClassName(value)) return value;
  }
  return std::nullopt;
}

}  // namespace choir
