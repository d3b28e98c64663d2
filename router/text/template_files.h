// What a model directory says about chat: its templates and the texts of its special tokens.
// Implementation of chat_template.h.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/base/status.h"

namespace choir::text {

struct TemplateFiles {
  struct Source {
    std::string file;  // that it was found in
    std::string text;
  };
  std::map<std::string, Source> templates;  // by name; a single one is "default"
  nlohmann::ordered_json variables;         // bos_token, eos_token, ...: text by name
};

// chat_template.jinja and additional_chat_templates/NAME.jinja, or tokenizer_config.json's
// chat_template. Templates may be absent; what is there and cannot be read is an error.
StatusOr<TemplateFiles> ReadTemplateFiles(const std::string& model_dir);

// The tokens among the members of a config: bos_token, eos_token, ..., and those that a model adds
// under names of its own.
void AddTokens(const nlohmann::ordered_json& config, nlohmann::ordered_json* variables);

}  // namespace choir::text
