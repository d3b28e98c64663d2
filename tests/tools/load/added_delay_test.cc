#include "tools/load/added_delay.h"

#include <gtest/gtest.h>

namespace choir {
namespace {

LoadRecord Record(double due, std::vector<double> pieces) {
  LoadRecord r{.due = due, .code = 200, .pieces = std::move(pieces)};
  r.end = r.pieces.back();
  r.output_tokens = static_cast<int64_t>(r.pieces.size());
  return r;
}

TEST(AddedDelayTest, TakesTheStepsEndAsTheTimeAPieceWasMade) {
  // Due in the middle of a step of 1 s: the next one begins at 10 and ends at 11.
  const AddedDelay d = AddedDelayOf({Record(9.5, {11.25, 12.5, 13.25})}, 1.0, 0);
  EXPECT_DOUBLE_EQ(d.ttft.max, 0.25);
  EXPECT_DOUBLE_EQ(d.piece.max, 0.5);
  EXPECT_DOUBLE_EQ(d.piece.p50, 0.25);
  EXPECT_DOUBLE_EQ(d.itl.max, 0.25);
  EXPECT_EQ(d.itl.count, 2u);
}

TEST(AddedDelayTest, CountsAMissedStepAgainstTheFirstPiece) {
  EXPECT_DOUBLE_EQ(AddedDelayOf({Record(9.5, {12.25, 13.25})}, 1.0, 0).ttft.max, 1.25);
}

TEST(AddedDelayTest, LeavesOutFailedMergedAndEdgeRecords) {
  LoadRecord failed = Record(20, {22});
  failed.error = "503";
  LoadRecord merged = Record(20, {22, 23});
  merged.output_tokens = 3;
  const AddedDelay d = AddedDelayOf(
      {Record(10, {12}), failed, merged, Record(20.5, {22.125}), Record(28, {30})}, 1.0, 2);
  EXPECT_EQ(d.ttft.count, 1u);
  EXPECT_DOUBLE_EQ(d.ttft.p50, 0.125);
}

}  // namespace
}  // namespace choir
