// The sub-commands of `choir`. Each lives in cmd_<name>.cc and parses its own arguments with
// OptionSet; argv[0] is "choir <name>". Exit codes: 0 done, 1 the thing asked for failed, 2 wrong
// usage. Data goes to stdout, messages for people to stderr.
#pragma once

namespace choir {

struct Command {
  const char* name;     // "keys add" is one name with a space
  const char* summary;  // one line for --help
  int (*run)(int argc, const char* const* argv);
};

int RunUp(int argc, const char* const* argv);
int RunTlsInit(int argc, const char* const* argv);
int RunChat(int argc, const char* const* argv);
int RunRoute(int argc, const char* const* argv);
int RunStatus(int argc, const char* const* argv);
int RunKeysAdd(int argc, const char* const* argv);
int RunKeysList(int argc, const char* const* argv);
int RunKeysRevoke(int argc, const char* const* argv);
int RunKeysRotate(int argc, const char* const* argv);
int RunDoctor(int argc, const char* const* argv);
int RunGenerate(int argc, const char* const* argv);
int RunLogits(int argc, const char* const* argv);
int RunTokenize(int argc, const char* const* argv);
int RunDetokenize(int argc, const char* const* argv);
int RunTemplate(int argc, const char* const* argv);
int RunModelDemo(int argc, const char* const* argv);
int RunModelRandom(int argc, const char* const* argv);
int RunModelInfo(int argc, const char* const* argv);
int RunBenchModel(int argc, const char* const* argv);
int RunBenchMachine(int argc, const char* const* argv);
int RunBenchRouter(int argc, const char* const* argv);
int RunAuditVerify(int argc, const char* const* argv);
int RunAuditShow(int argc, const char* const* argv);
int RunAuditReplay(int argc, const char* const* argv);
int RunAuditCheckProof(int argc, const char* const* argv);
int RunAuditProve(int argc, const char* const* argv);
int RunAuditErase(int argc, const char* const* argv);
int RunBenchE2e(int argc, const char* const* argv);

}  // namespace choir
