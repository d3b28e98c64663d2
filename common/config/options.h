// Options of a program: one list, filled from defaults, then a YAML file (--config), then flags
// (which win). Knows --help, --version, --config FILE, --check-config, --check-section,
// --config-schema. All errors are reported at once, each naming the key or flag, the bad value, the
// range and the nearest known name.
//
//   RouterConfig c;
//   OptionSet options("choir-router", "Admits, limits, audits and dispatches requests.", "router");
//   options.Add(&c.listen, {.key = "listen", .flag = "--listen", .help = "host:port of the gRPC
//   server"}); options.Add(&c.queue_max, {.key = "queue_max", .flag = "--queue-max", .help =
//   "..."}, 1, 100000); if (auto exit_code = options.Parse(argc, argv)) return *exit_code;
//
// The YAML file has one top-level section per part (up, router, worker, gateway); a program reads
// its own and checks that the others are known names. Keys may be nested with dots: "audit.class".
// Used by one thread at start-up.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace YAML {
class Node;
}

namespace choir {

struct OptionInfo {
  std::string key;   // in the program's YAML section; empty: flag only
  std::string flag;  // "--listen"; "DIR" (no dashes): a positional argument; empty: YAML only
  std::string help;
  bool required = false;
};

class OptionSet {
 public:
  // `section` is the program's YAML section; empty: no --config.
  OptionSet(std::string program, std::string summary, std::string section);
  ~OptionSet();

  void Add(std::string* value, OptionInfo info);
  void Add(bool* value, OptionInfo info);
  void Add(int64_t* value, OptionInfo info, int64_t min, int64_t max);
  void Add(double* value, OptionInfo info, double min, double max);
  void Add(std::vector<std::string>* value, OptionInfo info);  // repeatable flag, YAML list
  void AddChoice(std::string* value, OptionInfo info, std::vector<std::string> choices);
  void AddBytes(uint64_t* value, OptionInfo info, uint64_t min,
                uint64_t max);  // 1GiB, 64 MiB, 4096
  void AddDuration(Duration* value, OptionInfo info, Duration min, Duration max);  // 500ms, 30s, 5m
  // A whole YAML subtree (tenants: ...), validated by `read`; its errors name the full key.
  void AddSubtree(std::string key, std::string help, std::function<Status(const YAML::Node&)> read);
  // Checked after everything was read: cross-option rules.
  void AddCheck(std::function<Status()> check);
  // Likewise, of what keys of the file say together whatever flags may add: --check-section too.
  void AddSectionCheck(std::function<Status()> check);
  // --retry-start, of a program that may stay when it cannot start (common/http/failed_start.h).
  void AddRetryStart(Duration* value);
  // Of the state of files: left to the start itself when that may be tried again (AddRetryStart,
  // above 0), but for --check-config.
  void AddStartCheck(std::function<Status()> check);
  // Of files that need not be there yet: left to the start itself, but for --check-config.
  void AddFileCheck(std::function<Status()> check);

  // nullopt: go on. Otherwise the exit code: 0 after --help, --version, --config-schema and a good
  // --check-config or --check-section (which misses nothing that flags may add, and looks at each
  // key by itself), 2 after an error (already printed to stderr).
  std::optional<int> Parse(int argc, const char* const* argv);
  // For a program that runs already and reads its file again: all errors, and nothing is printed.
  Status ParseQuietly(int argc, const char* const* argv);
  // Of --config; empty: none was given.
  const std::string& config_file() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

StatusOr<uint64_t> ParseInteger(const std::string& text, uint64_t min, uint64_t max);
StatusOr<uint64_t> ParseBytes(const std::string& text);
StatusOr<Duration> ParseDuration(const std::string& text);
// The candidate nearest to `word` by edit distance, or "" when none is near.
std::string NearestName(const std::string& word, const std::vector<std::string>& candidates);
// To follow an unknown word in an error: ", did you mean 'that'?", or "" when none is near.
std::string NearestHint(const std::string& word, const std::vector<std::string>& candidates);
// All of them, then: "; known are a, b".
std::string NearestOrAllHint(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace choir
