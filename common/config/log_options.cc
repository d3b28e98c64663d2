#include "common/config/log_options.h"

namespace choir {

void AddLogOptions(OptionSet* set, LogOptions* options) {
  set->AddChoice(&options->level,
                 {.key = "log_level",
                  .flag = "--log-level",
                  .help = "least level that is logged; PUT /loglevel?level=... of the admin port "
                          "changes it while running"},
                 {"trace", "debug", "info", "warn", "error", "off"});
  set->AddChoice(&options->format,
                 {.key = "log_format",
                  .flag = "--log-format",
                  .help = "of a log line: for people, or a JSON object"},
                 {"text", "json"});
}

}  // namespace choir
