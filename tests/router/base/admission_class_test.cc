#include "router/base/admission_class.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

TEST(AdmissionClassTest, NamesAreReadBackAndNothingElseIs) {
  for (const AdmissionClass value : kAdmissionClasses) {
    EXPECT_EQ(ParseAdmissionClass(AdmissionClassName(value)), value);
  }
  for (const char* name : {"", "Default", "interactive ", "batch"}) {
    EXPECT_FALSE(ParseAdmissionClass(name)) << name;
  }
}

TEST(AdmissionClassTest, AWishLowersAndNeverRaises) {
  EXPECT_EQ(LowerOf(AdmissionClass::kInteractive, AdmissionClass::kBulk), AdmissionClass::kBulk);
  EXPECT_EQ(LowerOf(AdmissionClass::kBulk, AdmissionClass::kInteractive), AdmissionClass::kBulk);
  for (const AdmissionClass granted : kAdmissionClasses) {
    for (const AdmissionClass asked : kAdmissionClasses) {
      EXPECT_GE(LowerOf(granted, asked), granted);
    }
  }
}

}  // namespace
}  // namespace choir
