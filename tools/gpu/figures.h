// The figures: what a run saw of each. A figure is judged as the issue reads it; where
// another reading tells more of a kernel it stands beside that, and does not judge.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace choir::gpu {

// One way to read a row of a table.
struct FigureReading {
  std::string key;  // "peak_percent": tflops over the data sheet's; "cublaslt_us": that over us
  std::string of;   // what the number is of
  std::string unit;
  std::string op;  // of another row of the same table; empty: of the figure's own
};

struct FigureAim {
  std::string name;
  std::string what;
  FigureReading judged;
  FigureReading beside;  // of "step_ratio": none
  double least;          // what it is to reach; where `most` is set: what it may be at most
  double aim;
  bool most = false;
};
const std::vector<FigureAim>& FigureAims();

// Of a merged report's "card", "ops" and "slice", one entry a figure:
// {"figure", "what", "unit", "least", "aim", "most", "judged_by", "seen", "by", "reached",
//  "readings": [{"of", "value", "unit", "judged"}], "note"}; "seen": null where it was not seen,
// and then without "by" and "reached". Of several tables the best one's row, with all its readings;
// of the steps of a decode batch each one, and the worst is what was seen.
nlohmann::ordered_json FiguresOf(const nlohmann::ordered_json& report);

std::string FiguresTable(const nlohmann::ordered_json& figures);  // as Markdown

}  // namespace choir::gpu
