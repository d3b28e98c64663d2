#include "tools/gpu/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

#include "common/tensor/small_floats.h"

namespace choir::gpu {
namespace {

using Json = nlohmann::ordered_json;
using Bytes = std::vector<std::byte>;

constexpr size_t kFailuresMax = 20;

double ValueAt(const Bytes& bytes, DType dtype, int64_t i) {
  if (dtype == DType::kBF16) {
    bf16 half = 0;
    std::memcpy(&half, bytes.data() + 2 * i, sizeof half);
    return ToF32(half);
  }
  float value = 0;
  std::memcpy(&value, bytes.data() + 4 * i, sizeof value);
  return value;
}

class Player {
 public:
  Player(const std::vector<const cuda::KernelTable*>& tables, Card& card)
      : tables_(tables), card_(card) {}

  // Empty, or what is wrong.
  std::string Play(const SweepCase& c) {
    std::vector<Bytes> oracle;
    for (size_t i = 0; i < tables_.size(); ++i) {
      if (i > 0 && c.same(*tables_[i], *tables_[i - 1])) continue;
      const std::vector<Bytes> got = Run(c, *tables_[i], std::byte{0xff});
      std::string wrong = Compare(c, Run(c, *tables_[i], std::byte{0x5a}), got, false);
      if (!wrong.empty()) wrong = "in a second run " + wrong;
      if (wrong.empty()) wrong = Alone(c, *tables_[i], got);
      if (wrong.empty() && i > 0) wrong = Compare(c, got, oracle, true);
      if (!wrong.empty()) return fmt::format("{}: {}", tables_[i]->name, wrong);
      if (i == 0) {
        oracle = got;
      } else {
        ++compared_;
      }
    }
    return "";
  }
  int64_t compared() const { return compared_; }

 private:
  std::vector<Bytes> Run(const SweepCase& c, const cuda::KernelTable& table, std::byte left_over) {
    for (const Checked& out : c.outputs) {
      Bytes before = out.before;
      if (before.empty()) before.assign(out.at.num_bytes(), left_over);
      card_.Upload(out.at, before.data());
    }
    c.run(table, card_.kernel_stream());
    card_.Wait();
    std::vector<Bytes> got;
    for (const Checked& out : c.outputs) {
      got.emplace_back(out.at.num_bytes());
      card_.Download(got.back().data(), out.at);
    }
    return got;
  }

  static std::string Compare(const SweepCase& c, const std::vector<Bytes>& got,
                             const std::vector<Bytes>& want, bool bounds) {
    for (size_t i = 0; i < c.outputs.size(); ++i) {
      const Checked& out = c.outputs[i];
      if (got[i] == want[i]) continue;
      if (bounds && out.row_part > 0) {
        const std::string wrong = FarRow(out, got[i], want[i]);
        if (wrong.empty()) continue;
        return wrong;
      }
      if (!bounds || !out.bound) return DifferentBits(out, got[i], want[i]);
      for (int64_t e = 0; e < out.at.num_elements(); ++e) {
        const double a = ValueAt(got[i], out.at.dtype(), e);
        const double b = ValueAt(want[i], out.at.dtype(), e);
        const double bound = out.bound(e, b);
        if (std::abs(a - b) <= bound) continue;  // false for NaN, too
        return fmt::format("{}[{}] is {:.9g}, the plainest table has {:.9g}, bound {:.3g}",
                           out.name, e, a, b, bound);
      }
    }
    return "";
  }

  static std::string FarRow(const Checked& out, const Bytes& got, const Bytes& want) {
    const int64_t width = out.at.dim(1);
    for (int64_t row = 0; row < out.at.dim(0); ++row) {
      double off = 0, size = 0;
      for (int64_t e = row * width; e < (row + 1) * width; ++e) {
        const double b = ValueAt(want, out.at.dtype(), e);
        const double apart = ValueAt(got, out.at.dtype(), e) - b;
        off += apart * apart;
        size += b * b;
      }
      if (std::sqrt(off) <= out.row_part * std::sqrt(size) + 1e-6) continue;  // false for NaN, too
      return fmt::format("row {} of {} is {:.3g} of {:.3g} off the plainest table's, bound {:.3g}",
                         row, out.name, std::sqrt(off), std::sqrt(size),
                         out.row_part * std::sqrt(size));
    }
    return "";
  }

  static std::string DifferentBits(const Checked& out, const Bytes& got, const Bytes& want) {
    size_t at = 0;
    while (got[at] == want[at]) ++at;
    return fmt::format("{} has other bits, first at byte {} of {}", out.name, at, got.size());
  }

  std::string Alone(const SweepCase& c, const cuda::KernelTable& table,
                    const std::vector<Bytes>& whole) {
    if (!c.alone) return "";
    const TensorView to = c.outputs[0].at.Rows(0, 1);
    c.alone(table, card_.kernel_stream(), to);
    Bytes row(to.num_bytes());
    card_.Download(row.data(), to);
    const auto begin = whole[0].begin() + c.row * static_cast<int64_t>(row.size());
    if (std::equal(row.begin(), row.end(), begin)) return "";
    return fmt::format("row {} alone has other bits than in its batch", c.row);
  }

  const std::vector<const cuda::KernelTable*>& tables_;
  Card& card_;
  int64_t compared_ = 0;
};

// What was played, for the JSON.
struct Played {
  uint64_t first_seed = 0;
  int64_t cases = 0, compared = 0;
  std::map<std::string, int64_t> by_op;
  Json failures = Json::array();

  Json Told() const {
    std::string each;
    for (const auto& [op, count] : by_op) {
      each += fmt::format("{}{} {}", each.empty() ? "" : ", ", op, count);
    }
    Json lines = {fmt::format("{} shapes from seed {} on, {} comparisons of tables, {} failed; {}",
                              cases, first_seed, compared, failures.size(), each)};
    for (const Json& f : failures) {
      lines.push_back(fmt::format("--seed {} --cases 1: {} {}: {}", f["seed"].get<uint64_t>(),
                                  f.value("op", ""), f.value("shape", ""), f.value("wrong", "")));
    }
    return {{"seed", first_seed},
            {"cases", cases},
            {"compared", compared},
            {"failures", failures},
            {"lines", std::move(lines)}};
  }
};

}  // namespace

Json Sweep(const std::vector<const cuda::KernelTable*>& tables, Card& card,
           const SweepOptions& options) {
  std::vector<SweepOp> ops = SweepOps();
  if (!options.op.empty()) {
    std::erase_if(ops, [&](const SweepOp& op) { return options.op != op.name; });
  }
  const auto skipped = [&](const SweepOp& op) {
    return std::find(options.skip.begin(), options.skip.end(), op.name) != options.skip.end();
  };
  if (std::all_of(ops.begin(), ops.end(), skipped)) ops.clear();
  Player player(tables, card);
  Played played{.first_seed = options.seed};
  MonoTime told = Clock::Real().Now();
  for (uint64_t seed = options.seed;
       !ops.empty() && played.cases < options.cases_max && played.failures.size() < kFailuresMax &&
       Clock::Real().Now() < options.deadline;
       ++seed) {
    const SweepOp& op = ops[seed % ops.size()];
    if (skipped(op)) continue;
    Draw draw(seed, options.sizes, &card);
    const SweepCase c = op.make(draw);
    // Known before it runs: a hang or a device error ends the process.
    std::printf("seed %llu: %s: %s\n", static_cast<unsigned long long>(seed), op.name,
                c.shape.c_str());
    const std::string wrong = player.Play(c);
    card.FreeAll();
    ++played.cases;
    ++played.by_op[c.op];
    played.compared = player.compared();
    if (!wrong.empty()) {
      played.failures.push_back(
          {{"seed", seed}, {"op", c.op}, {"shape", c.shape}, {"wrong", wrong}});
      std::printf("FAILED: seed %llu: %s %s: %s\n", static_cast<unsigned long long>(seed),
                  c.op.c_str(), c.shape.c_str(), wrong.c_str());
    }
    if (!options.progress || Clock::Real().Now() - told < std::chrono::seconds(1)) continue;
    told = Clock::Real().Now();
    options.progress(played.Told());
  }
  if (options.progress) options.progress(played.Told());
  return played.Told();
}

}  // namespace choir::gpu
