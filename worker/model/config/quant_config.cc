#include "worker/model/config/quant_config.h"

#include <nlohmann/json.hpp>

#include "kernels/ops/linear.h"

namespace choir {
namespace {

constexpr char kRemedy[] = "use the bf16, f16 or f32 weights of this model";

void ReadFp8(ConfigReader* q) {
  q->OneOf("fmt", {"e4m3"}, kRemedy);
  q->OneOf("activation_scheme", {"dynamic"}, kRemedy);
  // ue8m0: how other engines round the scales of activations, which are not quantized here.
  q->OneOf("scale_fmt", {"ue8m0"}, kRemedy);
  q->Check(!q->IsNull("weight_block_size"), "weight_block_size",
           std::string("null (one scale a tensor) is not supported; ") + kRemedy);
  if (!q->Has("weight_block_size")) return;
  const std::vector<int64_t> block = q->Ints("weight_block_size", 1, int64_t{1} << 20);
  q->Check(block == std::vector<int64_t>{kF8Block, kF8Block}, "weight_block_size",
           fmt::format("[{}] is not supported (known: [128, 128]); {}", fmt::join(block, ", "),
                       kRemedy));
}

}  // namespace

bool QuantConfig::Keeps(std::string_view module) const {
  for (const std::string& name : plain_modules) {
    const bool begins = module.substr(0, name.size()) == name;
    if (begins && (module.size() == name.size() || module[name.size()] == '.')) return true;
  }
  return false;
}

QuantConfig ReadQuantization(ConfigReader* reader) {
  QuantConfig quant;
  reader->Absent("compression_config", kRemedy);
  const nlohmann::json* object = reader->Object({"quantization_config"});
  if (object == nullptr) return quant;
  ConfigReader q(*object, reader->where() + ": quantization_config");
  const std::string method = q.Text({"quant_method"}, "");
  if (method == "fp8") {
    quant.kind = QuantConfig::Kind::kFp8;
    ReadFp8(&q);
  } else if (method == "mxfp4") {
    quant.kind = QuantConfig::Kind::kMxfp4;
  } else {
    q.Fail("quant_method", fmt::format("'{}' is not supported (known: fp8, mxfp4); {}",
                                       method.substr(0, 64), kRemedy));
  }
  quant.plain_modules = q.Texts("modules_to_not_convert");
  reader->Adopt(q);
  return quant;
}

}  // namespace choir
