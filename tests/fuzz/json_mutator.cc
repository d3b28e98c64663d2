#include "tests/fuzz/json_mutator.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace choir::fuzz {
namespace {

using Json = nlohmann::ordered_json;
using Random = std::minstd_rand;

constexpr size_t kValuesMax = 4096;

void Collect(Json& value, int depth, std::vector<Json*>* all) {
  if (all->size() >= kValuesMax || depth > 60) return;
  all->push_back(&value);
  if (!value.is_structured()) return;
  for (Json& child : value) Collect(child, depth + 1, all);
}

Json OddValue(Random& random) {
  static const std::vector<Json> kOdd = {nullptr,
                                         true,
                                         false,
                                         0,
                                         1,
                                         -1,
                                         2,
                                         3,
                                         7,
                                         16,
                                         255,
                                         256,
                                         1024,
                                         65535,
                                         65536,
                                         INT32_MAX,
                                         INT32_MIN,
                                         int64_t{1} << 32,
                                         INT64_MAX,
                                         INT64_MIN,
                                         UINT64_MAX,
                                         uint64_t{1} << 62,
                                         0.0,
                                         -0.0,
                                         0.5,
                                         1.5,
                                         1e-9,
                                         1e9,
                                         1e18,
                                         1e300,
                                         -1e300,
                                         4e9,
                                         "",
                                         "a",
                                         "\xc3\xa9",
                                         "\xf0\x9f\x8e\xb5",
                                         "<s>",
                                         "../x",
                                         "NaN",
                                         std::string(300, 'x'),
                                         Json::array(),
                                         Json::object(),
                                         Json::array({0}),
                                         Json::array({1, 2}),
                                         Json::array({"a", "b"}),
                                         Json::array({Json::array()}),
                                         Json::object({{"a", 1}}),
                                         Json::object({{"type", "Sequence"}})};
  return kOdd[random() % kOdd.size()];
}

void ChangeScalar(Json& value, Random& random) {
  if (value.is_number_integer()) {
    const auto old = value.get<int64_t>();
    const int64_t deltas[] = {1, -1, 8, -8, old, 4096};
    int64_t changed = 0;
    (void)__builtin_add_overflow(old, deltas[random() % 6], &changed);
    value = changed;
  } else if (value.is_number_float()) {
    value = value.get<double>() * (random() % 2 == 0 ? -1.0 : 1e6);
  } else if (value.is_boolean()) {
    value = !value.get<bool>();
  } else if (value.is_string()) {
    std::string text = value.get<std::string>();
    const size_t size = text.size();
    text.resize(size + 16);
    text.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(text.data()), size, size + 16));
    value = text;
  } else {
    value = OddValue(random);
  }
}

void ChangeObject(Json& value, const Json& other, Random& random) {
  if (value.empty() || random() % 4 == 0) {
    value[random() % 2 == 0 ? "a" : "type"] = other;
    return;
  }
  auto at = value.begin();
  std::advance(at, static_cast<ptrdiff_t>(random() % value.size()));
  switch (random() % 3) {
    case 0:
      value.erase(at);
      break;
    case 1: {  // under another name
      Json moved = *at;
      Json key = at.key();
      ChangeScalar(key, random);
      value[key.get<std::string>()] = std::move(moved);
      break;
    }
    default:
      *at = other;
  }
}

void ChangeArray(Json& value, const Json& other, Random& random) {
  if (value.empty() || random() % 3 == 0) {
    value.push_back(other);
    return;
  }
  const size_t at = random() % value.size();
  switch (random() % 3) {
    case 0:
      value.erase(at);
      break;
    case 1:
      value.push_back(value[at]);
      break;
    default:
      std::swap(value[at], value[random() % value.size()]);
  }
}

void ChangeOne(Json& root, Random& random) {
  std::vector<Json*> all;
  Collect(root, 0, &all);
  Json& value = *all[random() % all.size()];
  const Json other = random() % 2 == 0 ? *all[random() % all.size()] : OddValue(random);
  if (random() % 4 == 0) {
    value = other;
  } else if (value.is_object()) {
    ChangeObject(value, other, random);
  } else if (value.is_array()) {
    ChangeArray(value, other, random);
  } else {
    ChangeScalar(value, random);
  }
}

}  // namespace
}  // namespace choir::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  using choir::fuzz::Json;
  choir::fuzz::Random random(seed);
  auto [text, rest] = choir::fuzz::SplitInput(data, size);
  if (random() % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
  Json root = Json::parse(text, nullptr, false);
  if (root.is_discarded()) return LLVMFuzzerMutate(data, size, max_size);
  if (!rest.empty() && random() % 4 == 0) {
    const size_t before = rest.size();
    rest.resize(before + 64);
    rest.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(rest.data()), before, before + 64));
  } else {
    for (size_t n = 1 + random() % 3; n > 0; --n) choir::fuzz::ChangeOne(root, random);
  }
  std::string out = root.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (!rest.empty()) out += "\n" + rest;
  if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, out.data(), out.size());
  return out.size();
}
