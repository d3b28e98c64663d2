// Which content rules hold for whom: the `content_rules` of the router's configuration.
//
//   content_rules:
//     - {name: mail, pattern: '[a-z0-9.]{1,64}@[a-z0-9.]{1,64}', on: both, with: "[MAIL]"}
//     - {name: project, pattern: 'project x', ignore_case: true, on: output, action: refuse,
//     tenants: [acme]}
//
// `on` is input, output or both (default), `action` redact (default) or refuse. Without `tenants` a
// rule holds for everybody. Immutable; any thread.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "common/base/status.h"
#include "router/content/content_rules.h"

namespace YAML {
class Node;
}

namespace choir {

class ContentRuleBook {
 public:
  ContentRuleBook() = default;  // no rules
  // Errors name the rule and the field.
  static StatusOr<ContentRuleBook> Parse(const YAML::Node& rules);

  // Null: none.
  std::shared_ptr<const ContentRules> InputFor(const std::string& tenant) const {
    return For(input_, tenant);
  }
  std::shared_ptr<const ContentRules> OutputFor(const std::string& tenant) const {
    return For(output_, tenant);
  }

 private:
  // By tenant; "" is everybody else.
  using Sets = std::map<std::string, std::shared_ptr<const ContentRules>>;
  static std::shared_ptr<const ContentRules> For(const Sets& sets, const std::string& tenant);

  Sets input_, output_;
};

}  // namespace choir
