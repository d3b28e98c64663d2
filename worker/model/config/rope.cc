#include "worker/model/config/rope.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "common/base/check.h"

namespace choir {
namespace {

constexpr double kPositionsLimit = 1e9;

double Mscale(double factor, double a) {
  return factor <= 1.0 ? 1.0 : 0.1 * a * std::log(factor) + 1.0;
}

// What the positions were before scaling, from the three places it is published in.
double OriginalPositions(ConfigReader* reader, ConfigReader* scaling, double positions_max) {
  const double inner =
      scaling->Real({"original_max_position_embeddings"}, 1, kPositionsLimit, positions_max);
  return reader->Real({"original_max_position_embeddings"}, 1, kPositionsLimit, inner);
}

void ReadYarn(ConfigReader* scaling, double positions_max, RopeConfig* rope) {
  rope->factor = scaling->Real({"factor"}, 1e-3, 1e6, positions_max / rope->original_positions);
  rope->beta_fast = scaling->Real({"beta_fast"}, 0, 1e6, 32);
  rope->beta_slow = scaling->Real({"beta_slow"}, 0, 1e6, 1);
  // 0 means "the default", as in transformers.
  if (rope->beta_fast == 0) rope->beta_fast = 32;
  if (rope->beta_slow == 0) rope->beta_slow = 1;
  rope->truncate = scaling->Bool({"truncate"}, true);
  const double mscale = scaling->Real({"mscale"}, 0, 1e3, 0);
  if (scaling->Has("attention_factor")) {
    rope->table_scale = scaling->Real({"attention_factor"}, 1e-6, 1e6);
  } else if (mscale != 0 && rope->mscale_all_dim != 0) {
    rope->table_scale = Mscale(rope->factor, mscale) / Mscale(rope->factor, rope->mscale_all_dim);
  } else {
    rope->table_scale = Mscale(rope->factor, 1.0);
  }
  scaling->Check(rope->theta > 1, "rope_theta", "must be more than 1 with yarn");
}

void ReadType(ConfigReader* reader, ConfigReader* scaling, double positions_max, RopeConfig* rope) {
  const std::string type = scaling->Text({"rope_type", "type"}, "default");
  rope->mscale_all_dim = type == "default" ? 0 : scaling->Real({"mscale_all_dim"}, 0, 1e3, 0);
  if (type == "default") return;
  if (type == "dynamic") {
    // Stretches frequencies of sequences beyond max_position_embeddings only, which are not served:
    // docs/decisions/0007-dynamic-rope.md.
    rope->factor = scaling->Real({"factor"}, 1e-3, 1e6);
  } else if (type == "linear") {
    rope->type = RopeConfig::Type::kLinear;
    rope->factor = scaling->Real({"factor"}, 1e-3, 1e6);
  } else if (type == "llama3") {
    rope->type = RopeConfig::Type::kLlama3;
    rope->factor = scaling->Real({"factor"}, 1e-3, 1e6);
    rope->low_freq_factor = scaling->Real({"low_freq_factor"}, 1e-6, 1e6);
    rope->high_freq_factor = scaling->Real({"high_freq_factor"}, 1e-6, 1e6);
    rope->original_positions = OriginalPositions(reader, scaling, positions_max);
    scaling->Check(rope->high_freq_factor > rope->low_freq_factor, "high_freq_factor",
                   "must be more than low_freq_factor");
  } else if (type == "yarn") {
    rope->type = RopeConfig::Type::kYarn;
    rope->original_positions = OriginalPositions(reader, scaling, positions_max);
    ReadYarn(scaling, positions_max, rope);
  } else {
    scaling->Fail("rope_type",
                  fmt::format("'{}' is not supported (known: default, dynamic, linear, "
                              "llama3, yarn); use a model with one of these",
                              type));
  }
}

// Frequency blend of llama3 for one base frequency.
double Llama3(const RopeConfig& rope, double f) {
  const double wavelength = 2 * std::numbers::pi / f;
  if (wavelength > rope.original_positions / rope.low_freq_factor) return f / rope.factor;
  if (wavelength < rope.original_positions / rope.high_freq_factor) return f;
  const double s = (rope.original_positions / wavelength - rope.low_freq_factor) /
                   (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - s) * f / rope.factor + s * f;
}

struct YarnRamp {
  explicit YarnRamp(const RopeConfig& rope) {
    const double d = static_cast<double>(rope.rotary_dim);
    const auto edge = [&](double rotations) {
      return d * std::log(rope.original_positions / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(rope.theta));
    };
    low = edge(rope.beta_fast);
    high = edge(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, d - 1);
    if (low == high) high += 0.001;
  }
  double At(double i) const { return std::clamp((i - low) / (high - low), 0.0, 1.0); }
  double low = 0, high = 0;
};

}  // namespace

double RopeConfig::SoftmaxFactor() const {
  if (mscale_all_dim == 0) return 1.0;
  const double m = Mscale(factor, mscale_all_dim);
  return m * m;
}

RopeConfig ReadRope(ConfigReader* reader, int64_t head_columns, int64_t positions_max,
                    const RopeDefaults& defaults) {
  RopeConfig rope;
  // Two dialects: rope_theta beside rope_scaling, or everything inside rope_parameters. Where both
  // are there the older wins, as in transformers.
  const nlohmann::json* object = reader->Object({"rope_scaling", "rope_parameters"});
  if (object != nullptr && object->empty()) object = reader->Object({"rope_parameters"});
  const nlohmann::json none = nlohmann::json::parse(defaults.scaling);
  const nlohmann::json& scaling_object = object == nullptr ? none : *object;
  ConfigReader scaling(scaling_object, reader->where() + ": rope parameters");
  for (const auto& [key, value] : scaling_object.items()) {
    if (value.is_object()) scaling.Fail(key, "rope by layer type is not supported for this family");
  }
  const double outer_theta = reader->Real({"rope_theta"}, 1e-3, 1e15, defaults.theta);
  rope.theta = scaling.Real({"rope_theta"}, 1e-3, 1e15, outer_theta);
  const double outer_partial = reader->Real({"partial_rotary_factor"}, 1e-6, 1, defaults.partial);
  const double partial = scaling.Real({"partial_rotary_factor"}, 1e-6, 1, outer_partial);
  rope.rotary_dim = static_cast<int64_t>(static_cast<double>(head_columns) * partial);
  ReadType(reader, &scaling, static_cast<double>(positions_max), &rope);
  reader->Adopt(scaling);
  reader->Check(rope.rotary_dim > 0 && rope.rotary_dim % 2 == 0, "partial_rotary_factor",
                fmt::format("{} rotary columns of a head of {}: must be even and more than 0",
                            rope.rotary_dim, head_columns));
  return rope;
}

std::vector<float> RopeFrequencies(const RopeConfig& rope) {
  const int64_t half = rope.rotary_dim / 2;
  std::vector<float> out(static_cast<size_t>(half));
  const bool yarn = rope.type == RopeConfig::Type::kYarn;
  const YarnRamp ramp(yarn ? rope
                           : RopeConfig{.theta = 2, .rotary_dim = 2, .original_positions = 1});
  for (int64_t i = 0; i < half; ++i) {
    double f =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.rotary_dim));
    switch (rope.type) {
      case RopeConfig::Type::kDefault:
        break;
      case RopeConfig::Type::kLinear:
        f /= rope.factor;
        break;
      case RopeConfig::Type::kLlama3:
        f = Llama3(rope, f);
        break;
      case RopeConfig::Type::kYarn: {
        const double r = ramp.At(static_cast<double>(i));
        f = f / rope.factor * r + f * (1 - r);
        break;
      }
    }
    out[static_cast<size_t>(i)] = static_cast<float>(f);
  }
  return out;
}

void FillRopeTables(const RopeConfig& rope, int64_t begin, int64_t end, std::span<float> cos,
                    std::span<float> sin) {
  const std::vector<float> frequencies = RopeFrequencies(rope);
  size_t at = static_cast<size_t>(begin) * frequencies.size();
  CHOIR_CHECK(cos.size() >= static_cast<size_t>(end) * frequencies.size());
  CHOIR_CHECK(sin.size() == cos.size());
  for (int64_t p = begin; p < end; ++p) {
    for (const float f : frequencies) {
      // The angle is rounded to FP32 first: published models were trained that way, and far
      // positions would differ from every other implementation otherwise.
      const double angle = static_cast<double>(static_cast<float>(p) * f);
      cos[at] = static_cast<float>(std::cos(angle) * rope.table_scale);
      sin[at] = static_cast<float>(std::sin(angle) * rope.table_scale);
      ++at;
    }
  }
}

}  // namespace choir
