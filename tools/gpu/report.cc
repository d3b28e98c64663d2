#include "tools/gpu/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "tools/gpu/figures.h"

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kParts[] = {"card", "limits", "ops", "sweep", "slice", "processes", "nccl"};

std::string TextOf(const std::string& file) {
  std::ifstream in(file);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

double Number(const Json& row, const char* key) { return row.value(key, 0.0); }

std::string CellOf(const Json& row, const char* key, int digits) {
  return row.contains(key) ? fmt::format("{:.{}f}", Number(row, key), digits) : "-";
}

std::string LimitsText(const Json& report) {
  if (!report.contains("limits")) return "Limits of the card: not measured.\n";
  const Json& l = report["limits"];
  if (l.contains("missing")) {
    return fmt::format("A copy inside its memory: {:.0f} GB/s. Products: {}.\n",
                       Number(l, "copy_gb_per_s"), l.value("missing", ""));
  }
  return fmt::format(
      "A copy inside its memory: {:.0f} GB/s. Products by cuBLASLt on random numbers: {:.0f} "
      "TFLOPS "
      "in BF16, {:.0f} in FP8 with one scale, {:.0f} with scales of blocks.\n",
      Number(l, "copy_gb_per_s"), Number(l, "bf16_tflops"), Number(l, "f8_tflops"),
      Number(l, "f8_blocks_tflops"));
}

std::string OpsTable(const Json& ops) {
  std::string text =
      "| table | op | shape | us | TFLOPS | GB/s | % of copy | % of GEMM | bound | floor us | % of "
      "floor | cuBLASLt us |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const Json& r : ops) {
    text += fmt::format("| {} | {} | {} ", r.value("table", ""), r.value("op", ""),
                        r.value("shape", ""));
    if (r.contains("left_out")) {
      text += fmt::format("| {} | | | | | | | | |\n", r.value("left_out", ""));
      continue;
    }
    text +=
        fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", CellOf(r, "us", 1),
                    CellOf(r, "tflops", 1), CellOf(r, "gb_per_s", 0), CellOf(r, "copy_percent", 1),
                    CellOf(r, "gemm_percent", 1), r.value("bound", "-"), CellOf(r, "floor_us", 1),
                    CellOf(r, "floor_percent", 1), CellOf(r, "cublaslt_us", 1));
  }
  return text;
}

std::string SectionsTable(const Json& report) {
  std::string text = "| section | ended | seconds | of |\n|---|---|---|---|\n";
  for (const Json& s : report["sections"]) {
    text += fmt::format("| {} | {} | {:.0f} | {:.0f} |\n", s.value("name", ""),
                        s.value("state", ""), Number(s, "seconds"), Number(s, "limit"));
  }
  return text;
}

// Those that take longest, beside their floors.
std::string OpsOf(const Json& step) {
  constexpr size_t kMost = 7;
  std::vector<std::pair<double, std::string>> ops;
  const Json times = step.value("ops_ms", Json::object());
  const Json floors = step.value("ops_floor_ms", Json::object());
  for (const auto& [op, ms] : times.items()) {
    ops.emplace_back(-ms.get<double>(), fmt::format("{} {:.2f} of {:.2f}", op, ms.get<double>(),
                                                    Number(floors, op.c_str())));
  }
  std::sort(ops.begin(), ops.end());
  std::string text;
  for (size_t i = 0; i < std::min(ops.size(), kMost); ++i) {
    text += (i == 0 ? "" : ", ") + ops[i].second;
  }
  return text;
}

std::string SliceText(const Json& slice) {
  std::string text = fmt::format("{}\n\n", slice.value("model", ""));
  text +=
      "| step | rows | ms | without graphs | floors ms | ratio | tokens/s | by op: ms, floor "
      "|\n|---|---|---|---|---|---|---|---|\n";
  for (const Json& s : slice.value("steps", Json::array())) {
    text += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", s.value("kind", ""),
                        s.value("rows", 0), CellOf(s, "ms", 2), CellOf(s, "plain_ms", 2),
                        CellOf(s, "floor_ms", 2), CellOf(s, "step_ratio", 2),
                        CellOf(s, "tokens_per_s", 0), OpsOf(s));
  }
  for (const char* key : {"lines", "failures"}) {
    for (const Json& line : slice.value(key, Json::array())) {
      text += fmt::format("\n{}: {}\n", key == std::string("lines") ? "Note" : "FAILED",
                          line.get<std::string>());
    }
  }
  for (const Json& p : slice.value("projection", Json::array())) {
    text += fmt::format("\n{}", p.value("text", ""));
  }
  return text + "\n";
}

// A part whose entries are said in words.
std::string LinesOf(const Json& part) {
  std::string text;
  for (const Json& line : part.value("lines", Json::array())) {
    text += "- " + line.get<std::string>() + "\n";
  }
  return text.empty() ? "- nothing\n" : text;
}

Json PartIn(const std::string& out, const std::string& name) {
  return Json::parse(TextOf(fmt::format("{}/{}.json", out, name)), nullptr, false);
}

// A part that was taken once more stands behind the first: entries behind entries, counts added.
void AddAgain(const Json& again, Json* part) {
  if (!part->is_object()) {
    *part = again;
    return;
  }
  for (const auto& [key, value] : again.items()) {
    Json& to = (*part)[key];
    if (to.is_null()) {
      to = value;
    } else if (value.is_array()) {
      to.insert(to.end(), value.begin(), value.end());
    } else if (key == "cases" || key == "compared") {
      to = to.get<int64_t>() + value.get<int64_t>();
    }
  }
}

// Where the fastest kernels broke, what they have without early starts, or the rung below them:
// rows beside theirs, and their steps if there are more.
void AddTriedAgain(const std::string& out, const std::string& how, Json* report) {
  const Json ops = PartIn(out, "ops-" + how), slice = PartIn(out, "slice-" + how);
  if (ops.is_array()) {
    Json& all = (*report)["ops"];
    if (!all.is_array()) all = Json::array();
    all.insert(all.end(), ops.begin(), ops.end());
  }
  if (!slice.is_object()) return;
  const auto steps = [](const Json& part) { return part.value("steps", Json::array()).size(); };
  const bool more = !report->contains("slice") || steps(slice) > steps((*report)["slice"]);
  if (more) (*report)["slice"] = slice;
}

}  // namespace

std::vector<Section> SectionsOf(const std::string& text) {
  std::vector<Section> sections;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    Section s;
    std::string seconds, limit;
    std::getline(fields, s.name, '\t');
    std::getline(fields, s.state, '\t');
    std::getline(fields, seconds, '\t');
    std::getline(fields, limit, '\t');
    if (s.name.empty()) continue;
    s.seconds = std::atof(seconds.c_str());
    s.limit = std::atof(limit.c_str());
    sections.push_back(std::move(s));
  }
  return sections;
}

Json Merge(const std::string& out, const RunFacts& facts) {
  Json report = {{"date", facts.date},
                 {"commit", facts.commit},
                 {"driver", facts.driver},
                 {"sections", Json::array()}};
  for (const Section& s : SectionsOf(TextOf(out + "/sections"))) {
    report["sections"].push_back(
        {{"name", s.name}, {"state", s.state}, {"seconds", s.seconds}, {"limit", s.limit}});
  }
  for (const char* part : kParts) {
    const Json read = PartIn(out, part);
    if (!read.is_discarded()) report[part] = read;
  }
  for (const auto& [part, again] : {std::pair("sweep", "sweep2"), std::pair("sweep", "sweep3"),
                                    std::pair("processes", "processes-tensor")}) {
    const Json read = PartIn(out, again);
    if (read.is_object()) AddAgain(read, &report[part]);
  }
  for (const char* how : {"apart", "tensor"}) AddTriedAgain(out, how, &report);
  report["figures"] = FiguresOf(report);
  return report;
}

std::string MarkdownOf(const Json& report) {
  const Json card = report.value("card", Json::object());
  std::string text = fmt::format(
      "# gpu_check, {}\n\nCard: {}, compute capability {}; driver {}, for CUDA {}; commit "
      "{}.\n{}\n",
      report.value("date", ""), card.value("name", "not known"),
      card.value("compute_capability", "-"), report.value("driver", ""),
      card.value("driver_cuda", "-"), report.value("commit", ""), LimitsText(report));
  text += "## Figures\n\n" + FiguresTable(report["figures"]);
  text += "\n## Sections\n\n" + SectionsTable(report);
  for (const auto& [part, title] : {std::pair("sweep", "Shapes drawn at random"),
                                    std::pair("processes", "Processes on one card"),
                                    std::pair("nccl", "NCCL between processes")}) {
    text += fmt::format("\n## {}\n\n{}", title,
                        report.contains(part) ? LinesOf(report[part]) : "- nothing was written\n");
  }
  text += "\n## Eight layers of DeepSeek-V3\n\n";
  text += report.contains("slice") ? SliceText(report["slice"]) : "Nothing was written.\n";
  text += "\n## Ops\n\n" + OpsTable(report.value("ops", Json::array()));
  return text;
}

std::string SummaryOf(const Json& report) {
  const Json card = report.value("card", Json::object());
  std::string text = fmt::format("{}; commit {}; {}", card.value("name", "card not known"),
                                 report.value("commit", ""), LimitsText(report));
  text += FiguresTable(report["figures"]);
  for (const char* part : {"sweep", "processes", "nccl"}) {
    if (report.contains(part)) text += LinesOf(report[part]);
  }
  if (report.contains("slice")) text += SliceText(report["slice"]);
  return text + SectionsTable(report);
}

}  // namespace choir::gpu
