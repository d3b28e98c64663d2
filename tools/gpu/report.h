// One JSON and one Markdown file from what the sections of a run wrote, and the short table that
// gpu_check ends with. What a section did not write is said to be missing, never left away.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace choir::gpu {

// A line of OUT/sections: name, how it ended ("passed", "failed", "hung", "left out: ..."),
// seconds, and the seconds it was given, with tabs between.
struct Section {
  std::string name, state;
  double seconds = 0, limit = 0;
};
std::vector<Section> SectionsOf(const std::string& text);

struct RunFacts {
  std::string date, commit, driver;
};

// Of the files in `out`: sections, and NAME.json of each part. Adds "figures" (figures.h).
nlohmann::ordered_json Merge(const std::string& out, const RunFacts& facts);

std::string MarkdownOf(const nlohmann::ordered_json& report);
std::string SummaryOf(const nlohmann::ordered_json& report);

}  // namespace choir::gpu
