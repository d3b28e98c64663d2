#include "tools/gpu/figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "tools/gpu/data_sheet.h"

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kPeak[] = "peak_percent";
constexpr char kStep[] = "step_ratio";

double Number(const Json& row, const std::string& key) { return row.value(key, 0.0); }

// What a run knows beside its rows.
struct Seen {
  const Json& ops;
  const DataSheet* sheet;
  std::string card;
};

std::optional<double> ValueOf(const FigureReading& reading, const Json& row, const Seen& seen) {
  if (reading.key == kPeak) {
    if (seen.sheet == nullptr || !row.contains("tflops")) return std::nullopt;
    return 100 * Number(row, "tflops") / seen.sheet->f8_tflops;
  }
  if (!row.contains(reading.key)) return std::nullopt;
  const double value = row[reading.key];
  return reading.key == "cublaslt_us" ? value / Number(row, "us") : value;
}

std::string OfText(const FigureReading& reading, const Seen& seen) {
  if (reading.key != kPeak) return reading.of;
  return fmt::format("{}, {:.0f} TFLOPS by the data sheet of {}", reading.of, seen.sheet->f8_tflops,
                     seen.sheet->name);
}

// The row that a reading is of; null: there is none.
const Json* RowOf(const FigureReading& reading, const Json& own, const Seen& seen) {
  if (reading.op.empty()) return &own;
  for (const Json& other : seen.ops) {
    if (other.value("op", "") == reading.op && other["table"] == own["table"]) return &other;
  }
  return nullptr;
}

void AddReading(const FigureReading& reading, const Json* row, const Seen& seen, Json* told) {
  const std::optional<double> value = row == nullptr ? std::nullopt : ValueOf(reading, *row, seen);
  if (!value) return;
  const bool judges = (*told)["readings"].empty();
  (*told)["readings"].push_back({{"of", OfText(reading, seen)},
                                 {"value", *value},
                                 {"unit", reading.unit},
                                 {"judged", judges}});
}

// Where products bind, no kernel as fast as cuBLASLt comes near to the copy's rate.
std::string CeilingOf(const FigureReading& judged, const Json& row) {
  if (judged.key != "copy_percent" || row.value("bound", "") != "gemm") return "";
  const double ceiling = 100 * Number(row, "copy_percent") / Number(row, "floor_percent");
  return fmt::format("its products bind it: at cuBLASLt's rate it would be at {:.0f} % of the copy",
                     ceiling);
}

Json Start(const FigureAim& figure) {
  return {{"figure", figure.name},         {"what", figure.what}, {"unit", figure.judged.unit},
          {"least", figure.least},         {"aim", figure.aim},   {"most", figure.most},
          {"judged_by", figure.judged.of}, {"seen", nullptr},     {"readings", Json::array()}};
}

bool Reaches(const FigureAim& figure, double value) {
  return figure.most ? value <= figure.least : value >= figure.least;
}

Json OfOps(const FigureAim& figure, const Seen& seen) {
  Json told = Start(figure);
  const bool no_peak = figure.judged.key == kPeak && seen.sheet == nullptr;
  const FigureReading& judged = no_peak ? figure.beside : figure.judged;
  const Json* best = nullptr;
  double value = 0;
  for (const Json& row : seen.ops) {
    if (row.value("figure", "") != figure.name) continue;
    const std::optional<double> here = ValueOf(judged, row, seen);
    if (!here || (best != nullptr && (figure.most ? *here >= value : *here <= value))) continue;
    value = *here;
    best = &row;
  }
  if (no_peak) told["note"] = fmt::format("no data sheet of {} is known here", seen.card);
  if (best == nullptr) return told;
  told["judged_by"] = OfText(judged, seen);
  told["seen"] = value;
  told["by"] = best->value("table", "");
  told["reached"] = Reaches(figure, value);
  AddReading(judged, best, seen, &told);
  if (!no_peak) AddReading(figure.beside, RowOf(figure.beside, *best, seen), seen, &told);
  const std::string ceiling = CeilingOf(judged, *best);
  if (!ceiling.empty()) told["note"] = ceiling;
  return told;
}

// Every batch judges: what was seen is the worst, and one that is missing reaches nothing.
Json OfSteps(const FigureAim& figure, const Json& slice) {
  Json told = Start(figure);
  std::vector<std::pair<double, int64_t>> ratios;
  std::vector<int64_t> missing = slice.value("batches", std::vector<int64_t>());
  for (const Json& row : slice.value("steps", Json::array())) {
    if (row.value("kind", "") != "decode" || !row.contains(figure.judged.key)) continue;
    const auto batch = row.value("rows", int64_t{0});
    const double ratio = Number(row, figure.judged.key);
    ratios.emplace_back(ratio, batch);
    std::erase(missing, batch);
    told["readings"].push_back({{"of", fmt::format("batch {}", batch)},
                                {"value", ratio},
                                {"unit", figure.judged.unit},
                                {"judged", true}});
  }
  if (ratios.empty()) return told;
  const auto [best, worst] = std::minmax_element(ratios.begin(), ratios.end());
  told["seen"] = worst->first;
  told["worst"] = {{"batch", worst->second}, {"value", worst->first}};
  told["best"] = {{"batch", best->second}, {"value", best->first}};
  told["by"] = fmt::format("{}, batch {}, the worst of {}", slice.value("table", ""), worst->second,
                           ratios.size());
  told["reached"] = Reaches(figure, worst->first) && missing.empty();
  std::string note = fmt::format("the best is batch {}", best->second);
  if (!missing.empty()) note += fmt::format("; not measured: batch {}", fmt::join(missing, ", "));
  told["note"] = note;
  return told;
}

std::string SeenCell(const Json& f) {
  if (f["seen"].is_null()) return "not seen in this run";
  return fmt::format("{:.2f}{} {} ({}){}", f["seen"].get<double>(), f.value("unit", ""),
                     f.value("judged_by", ""), f.value("by", ""),
                     f["reached"].get<bool>() ? "" : ", not reached");
}

std::string BesideCell(const Json& f) {
  std::vector<std::string> parts;
  const bool all_judge = f["figure"] == kStep;
  for (const Json& r : f["readings"]) {
    if (r["judged"].get<bool>() && !all_judge) continue;
    parts.push_back(fmt::format("{:.2f}{} {}", r["value"].get<double>(), r.value("unit", ""),
                                all_judge ? "at " + r.value("of", "") : r.value("of", "")));
  }
  if (f.contains("note")) parts.push_back(f.value("note", ""));
  return parts.empty() ? "-" : fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace

const std::vector<FigureAim>& FigureAims() {
  static const std::vector<FigureAim> aims = {
      {.name = "f8_contiguous",
       .what = "FP8 grouped GEMM, contiguous 4x8192, N4096 K7168",
       .judged = {kPeak, "of the dense FP8 peak", " %"},
       .beside = {"gemm_percent", "of cuBLASLt's best dense FP8 rate", " %"},
       .least = 60,
       .aim = 75},
      {.name = "f8_decode",
       .what = "FP8 grouped GEMM, masked form 4x256, N4096 K7168",
       .judged = {"copy_percent", "of the copy's rate", " %"},
       .beside = {"floor_percent", "of its floor", " %"},
       .least = 60,
       .aim = 80},
      {.name = "mla_decode",
       .what = "MLA decode, 128 sequences x 4096 keys x 128 heads",
       .judged = {"copy_percent", "of the copy's rate", " %"},
       .beside = {"floor_percent", "of its floor", " %"},
       .least = 80,
       .aim = 90},
      {.name = "bf16_grouped",
       .what = "BF16 grouped GEMM, contiguous 4x8192, N4096 K7168",
       .judged = {"cublaslt_us", "cuBLASLt's rate for it as one matrix", "x"},
       .beside = {"gemm_percent", "of cuBLASLt's best BF16 rate", " %"},
       .least = 0.9,
       .aim = 0.9},
      {.name = "gate_permute",
       .what = "gate + permute, 4,096 tokens",
       .judged = {"us", "to choose and place them", " us"},
       .beside = {"us", "with their rows copied", " us", "gate + permute"},
       .least = 10,
       .aim = 10,
       .most = true},
      {.name = kStep,
       .what = "decode step of 8 DeepSeek-V3 layers",
       .judged = {kStep, "the sum of its kernels' floors", "x"},
       .beside = {},
       .least = 1.3,
       .aim = 1.3,
       .most = true}};
  return aims;
}

Json FiguresOf(const Json& report) {
  const Json card = report.value("card", Json::object());
  const Json ops = report.value("ops", Json::array());
  const std::string name = card.value("name", "");
  const Seen seen{ops, DataSheetOf(name, card.value("processors", int64_t{0})),
                  name.empty() ? "this card" : name};
  Json figures = Json::array();
  for (const FigureAim& figure : FigureAims()) {
    figures.push_back(figure.name == kStep ? OfSteps(figure, report.value("slice", Json::object()))
                                           : OfOps(figure, seen));
  }
  return figures;
}

std::string FiguresTable(const Json& figures) {
  std::string text = "| figure | at least | aim | seen | beside it |\n|---|---|---|---|---|\n";
  for (const Json& f : figures) {
    const char* sign = f["most"].get<bool>() ? "<= " : "";
    text += fmt::format("| {} | {}{:g}{} | {}{:g} | {} | {} |\n", f.value("what", ""), sign,
                        f["least"].get<double>(), f.value("unit", ""), sign, f["aim"].get<double>(),
                        SeenCell(f), BesideCell(f));
  }
  return text;
}

}  // namespace choir::gpu
