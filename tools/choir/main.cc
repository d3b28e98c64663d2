// `choir`: the command line. Finds the sub-command and runs it.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/base/version.h"
#include "common/config/options.h"
#include "tools/choir/commands.h"

namespace choir {
namespace {

constexpr Command kCommands[] = {
    {"up", "run a whole cluster on this machine", RunUp},
    {"chat", "talk to a running cluster", RunChat},
    {"route", "where a request would go, and why", RunRoute},
    {"status", "what runs, what it holds, why it is not ready", RunStatus},
    {"keys add", "make an API key", RunKeysAdd},
    {"keys list", "list the API keys of a file", RunKeysList},
    {"keys revoke", "end API keys at once", RunKeysRevoke},
    {"keys rotate", "a new API key for a tenant, the old ones for a while", RunKeysRotate},
    {"audit verify", "is an audit log as it was written", RunAuditVerify},
    {"audit show", "records of an audit log", RunAuditShow},
    {"audit replay", "compute recorded answers again and compare them", RunAuditReplay},
    {"audit prove", "a proof that one record is in the log", RunAuditProve},
    {"audit check-proof", "check such a proof without the log", RunAuditCheckProof},
    {"audit erase", "destroy a tenant's audit key", RunAuditErase},
    {"tls init", "make a private authority and the parts' certificates", RunTlsInit},
    {"doctor", "look at this machine and say what to do", RunDoctor},
    {"generate", "one answer from a model, without servers", RunGenerate},
    {"logits", "the logits after every position of a list of token ids", RunLogits},
    {"tokenize", "text to token ids, as JSON lines", RunTokenize},
    {"detokenize", "token ids to text, as JSON lines", RunDetokenize},
    {"template", "chat messages through a model's chat template", RunTemplate},
    {"model demo", "get the default model (real weights)", RunModelDemo},
    {"model random", "make a seeded random model", RunModelRandom},
    {"model info", "describe a model directory", RunModelInfo},
    {"bench model", "how fast a model runs here, against what the machine allows", RunBenchModel},
    {"bench machine", "what this machine allows at most", RunBenchMachine},
    {"bench router", "what gateway and router add and cost", RunBenchRouter},
    {"bench e2e", "load on a running cluster: latency, throughput, errors", RunBenchE2e},
};

// Named by the documents, not built yet: refused by name.
constexpr const char* kNotBuilt[] = {"plan"};

void PrintHelp() {
  std::printf(
      "choir: serve Mixture-of-Experts language models on your own machines.\n\n"
      "usage: choir COMMAND [OPTION...]    (choir COMMAND --help explains)\n\n");
  for (const Command& c : kCommands) {
    std::printf("  %-17s %s\n", c.name, c.summary);
  }
}

// Matches one or two words ("keys add").
const Command* Find(int argc, char** argv, int* words) {
  const std::string one = argv[1];
  const std::string two = argc > 2 ? one + " " + argv[2] : one;
  for (const Command& c : kCommands) {
    if (two == c.name && one != c.name) return *words = 2, &c;
    if (one == c.name) return *words = 1, &c;
  }
  return nullptr;
}

// `choir keys`, `choir keys --help`, `choir keys lst`, `choir kyes`.
int Unknown(int argc, char** argv) {
  const std::string one = argv[1];
  const std::string two = argc > 2 ? one + " " + argv[2] : one;
  for (const char* name : kNotBuilt) {
    if (one != name && two != name) continue;
    std::fprintf(stderr, "choir: '%s' is not built yet in this version\n", name);
    return 2;
  }
  std::vector<std::string> names, of_group;
  for (const Command& c : kCommands) {
    names.emplace_back(c.name);
    if (names.back().starts_with(one + " ")) of_group.push_back(names.back());
  }
  if (!of_group.empty()) {
    const bool help = argc > 2 && (two == one + " --help" || two == one + " -h");
    if (!help && argc > 2) std::fprintf(stderr, "choir: there is no command '%s'\n", two.c_str());
    std::fprintf(help ? stdout : stderr, "choir %s has these commands:\n", one.c_str());
    for (const std::string& name : of_group) {
      std::fprintf(help ? stdout : stderr, "  choir %s\n", name.c_str());
    }
    return help ? 0 : 2;
  }
  std::string near = NearestName(two, names);
  if (near.empty()) near = NearestName(one, names);
  std::fprintf(stderr, "choir: there is no command '%s'%s; choir --help lists them\n", one.c_str(),
               near.empty() ? "" : (", did you mean '" + near + "'?").c_str());
  return 2;
}

int Main(int argc, char** argv) {
  if (argc < 2 || std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0) {
    PrintHelp();
    return argc < 2 ? 2 : 0;
  }
  if (std::strcmp(argv[1], "--version") == 0) {
    std::printf("choir %s\n", kVersion);
    return 0;
  }
  int words = 1;
  const Command* command = Find(argc, argv, &words);
  if (command == nullptr) return Unknown(argc, argv);
  const std::string program = std::string("choir ") + command->name;
  std::vector<const char*> args = {program.c_str()};
  for (int i = 1 + words; i < argc; ++i) args.push_back(argv[i]);
  return command->run(static_cast<int>(args.size()), args.data());
}

}  // namespace
}  // namespace choir

int main(int argc, char** argv) { return choir::Main(argc, argv); }
