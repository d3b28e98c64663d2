#include "common/config/options.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/support/temp_dir.h"

namespace choir {
namespace {

struct Config {
  std::string listen = "127.0.0.1:7070";
  bool verbose = false;
  int64_t queue = 16;
  double ratio = 0.5;
  std::vector<std::string> workers;
  std::string audit_class = "enforced";
  uint64_t kv_bytes = 1 << 20;
  Duration timeout = std::chrono::seconds(30);
  std::string needed;
  int tenants = 0;
  bool may_retry = true;
  Duration retry_start = Duration(0);
  bool files_good = true;
};

class OptionsTest : public ::testing::Test {
 protected:
  std::optional<int> Parse(std::vector<const char*> args, bool with_needed = true) {
    OptionSet options("choir-test", "A test.", "router");
    options.Add(&c.listen, {.key = "listen", .flag = "--listen", .help = "address"});
    options.Add(&c.verbose, {.key = "verbose", .flag = "--verbose", .help = "talk"});
    options.Add(&c.queue, {.key = "queue_max", .flag = "--queue-max", .help = "queue"}, 1, 100);
    options.Add(&c.ratio, {.key = "ratio", .flag = "--ratio", .help = "ratio"}, 0, 1);
    options.Add(&c.workers, {.key = "workers", .flag = "--worker", .help = "worker"});
    options.AddChoice(&c.audit_class,
                      {.key = "audit.class", .flag = "--audit-class", .help = "class"},
                      {"enforced", "bounded"});
    options.AddBytes(&c.kv_bytes, {.key = "kv_bytes", .flag = "--kv-bytes", .help = "kv"}, 1024,
                     1 << 30);
    options.AddDuration(&c.timeout, {.key = "timeout", .flag = "--timeout", .help = "time"},
                        std::chrono::milliseconds(1), std::chrono::hours(1));
    options.Add(&c.needed, {.flag = "--needed", .help = "must be there", .required = true});
    options.AddSubtree("tenants", "tenants", [&](const YAML::Node& node) -> Status {
      c.tenants = static_cast<int>(node.size());
      return absl::OkStatus();
    });
    options.AddCheck([&]() -> Status {
      if (c.queue == 13) return InvalidArgument("--queue-max: 13 brings bad luck");
      return absl::OkStatus();
    });
    if (c.may_retry) options.AddRetryStart(&c.retry_start);
    options.AddStartCheck([&]() -> Status {
      return c.files_good ? absl::OkStatus() : InvalidArgument("a file is broken");
    });
    args.insert(args.begin(), "choir-test");
    if (with_needed) args.insert(args.end(), {"--needed", "x"});
    ::testing::internal::CaptureStderr();
    ::testing::internal::CaptureStdout();
    const auto code = options.Parse(static_cast<int>(args.size()), args.data());
    err = ::testing::internal::GetCapturedStderr();
    out = ::testing::internal::GetCapturedStdout();
    return code;
  }

  std::string File(const std::string& text) {
    const std::string path = dir_.path() + "/config.yaml";
    std::ofstream(path) << text;
    return path;
  }

  const TempDir dir_;
  Config c;
  std::string err, out;
};

TEST_F(OptionsTest, DefaultsStayWhenNothingIsSaid) {
  EXPECT_EQ(Parse({}), std::nullopt) << err;
  EXPECT_EQ(c.queue, 16);
  EXPECT_FALSE(c.verbose);
}

TEST_F(OptionsTest, FlagsOfEveryKindAreRead) {
  EXPECT_EQ(Parse({"--verbose", "--queue-max", "7", "--ratio=0.25", "--worker", "a:1", "--worker",
                   "b:2", "--audit-class", "bounded", "--kv-bytes", "2KiB", "--timeout", "250ms"}),
            std::nullopt)
      << err;
  EXPECT_TRUE(c.verbose);
  EXPECT_EQ(c.queue, 7);
  EXPECT_EQ(c.ratio, 0.25);
  EXPECT_EQ(c.workers, (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_EQ(c.audit_class, "bounded");
  EXPECT_EQ(c.kv_bytes, 2048u);
  EXPECT_EQ(c.timeout, std::chrono::milliseconds(250));
}

TEST_F(OptionsTest, FlagsWinOverTheFile) {
  const std::string file = File(
      "router: {queue_max: 5, workers: [x:1], audit: {class: bounded}, tenants: {a: {}}}\nworker: "
      "{}\n");
  EXPECT_EQ(Parse({"--config", file.c_str(), "--queue-max", "6", "--worker", "y:2"}), std::nullopt)
      << err;
  EXPECT_EQ(c.queue, 6);
  EXPECT_EQ(c.workers, (std::vector<std::string>{"y:2"}));
  EXPECT_EQ(c.audit_class, "bounded");
  EXPECT_EQ(c.tenants, 1);
}

TEST_F(OptionsTest, UnknownFlagIsAnErrorWithASuggestion) {
  EXPECT_EQ(Parse({"--queue-mx", "5"}), 2);
  EXPECT_NE(err.find("did you mean --queue-max?"), std::string::npos) << err;
}

TEST_F(OptionsTest, UnknownKeyIsAnErrorWithASuggestion) {
  const std::string file = File("router: {audit: {clas: bounded}}\n");
  EXPECT_EQ(Parse({"--config", file.c_str()}), 2);
  EXPECT_NE(err.find("unknown key 'router.audit.clas', did you mean 'router.audit.class'?"),
            std::string::npos)
      << err;
}

TEST_F(OptionsTest, UnknownSectionIsAnError) {
  const std::string file = File("ruoter: {}\n");
  EXPECT_EQ(Parse({"--config", file.c_str()}), 2);
  EXPECT_NE(err.find("unknown section 'ruoter', did you mean 'router'?"), std::string::npos) << err;
}

TEST_F(OptionsTest, EveryErrorIsReportedAtOnceAndNamesTheRange) {
  EXPECT_EQ(Parse({"--queue-max", "101", "--ratio", "nan", "--kv-bytes", "12 furlongs",
                   "--audit-class", "x"},
                  false),
            2);
  EXPECT_NE(err.find("'101' is out of range 1..100"), std::string::npos) << err;
  EXPECT_NE(err.find("--ratio"), std::string::npos) << err;
  EXPECT_NE(err.find("12 furlongs"), std::string::npos) << err;
  EXPECT_NE(err.find("enforced | bounded"), std::string::npos) << err;
  EXPECT_NE(err.find("--needed is required"), std::string::npos) << err;
}

TEST_F(OptionsTest, AFlagIsNoValueOfTheFlagBeforeIt) {
  EXPECT_EQ(Parse({"--listen", "--queue-max", "7"}), 2);
  EXPECT_NE(err.find("--listen needs a value"), std::string::npos) << err;
}

TEST_F(OptionsTest, AWordBehindAFlagsValueIsNoSecondValue) {
  EXPECT_EQ(Parse({"--listen", "a:1", "b:2"}), 2);
  EXPECT_NE(err.find("unknown argument 'b:2'"), std::string::npos) << err;
  EXPECT_EQ(Parse({"--worker", "a:1", "--worker", "b:2"}), std::nullopt) << err;
  EXPECT_EQ(c.workers, (std::vector<std::string>{"a:1", "b:2"}));
}

TEST_F(OptionsTest, EdgesOfARangeAreInside) {
  EXPECT_EQ(Parse({"--queue-max", "1"}), std::nullopt) << err;
  EXPECT_EQ(Parse({"--queue-max", "100"}), std::nullopt) << err;
  EXPECT_EQ(Parse({"--queue-max", "0"}), 2);
}

TEST_F(OptionsTest, CrossChecksRunLast) {
  EXPECT_EQ(Parse({"--queue-max", "13"}), 2);
  EXPECT_NE(err.find("bad luck"), std::string::npos);
}

TEST_F(OptionsTest, CheckConfigEndsWithZeroWhenGood) {
  const std::string file = File("router: {queue_max: 5}\n");
  EXPECT_EQ(Parse({"--config", file.c_str(), "--check-config"}), 0);
  const std::string bad = File("router: {queue_max: 500}\n");
  EXPECT_EQ(Parse({"--config", bad.c_str(), "--check-config"}), 2);
}

TEST_F(OptionsTest, ASectionIsCheckedWithoutWhatFlagsAdd) {
  const std::string file = File("router: {queue_max: 13}\n");  // whatever all together say of it
  EXPECT_EQ(Parse({"--config", file.c_str(), "--check-section"}, /*with_needed=*/false), 0) << err;
  const std::string bad = File("router: {queue_max: 500, verbos: true}\n");
  EXPECT_EQ(Parse({"--config", bad.c_str(), "--check-section"}, false), 2);
  EXPECT_NE(err.find("1..100"), std::string::npos) << err;
  EXPECT_NE(err.find("router.verbose"), std::string::npos) << err;
  EXPECT_EQ(Parse({"--check-section"}, false), 2);
}

TEST_F(OptionsTest, BrokenFilesAreLeftToAStartThatMayBeTriedAgain) {
  c.files_good = false;
  EXPECT_EQ(Parse({}), 2);
  EXPECT_NE(err.find("a file is broken"), std::string::npos);
  EXPECT_EQ(Parse({"--retry-start", "1s"}), std::nullopt) << err;
  EXPECT_EQ(Parse({"--retry-start", "1s", "--check-config"}), 2);
  EXPECT_EQ(Parse({"--retry-start", "2h"}), 2);
  EXPECT_NE(err.find("0s..3600s"), std::string::npos) << err;
  c.may_retry = false;  // the option is not this program's
  EXPECT_EQ(Parse({}), 2);
}

TEST_F(OptionsTest, TheSchemaHasEveryKeyOfTheFileAndNoOther) {
  EXPECT_EQ(Parse({"--config-schema"}, false), 0);  // whatever is missing
  const auto schema = nlohmann::json::parse(out);
  EXPECT_EQ(schema["additionalProperties"], false);
  const auto& keys = schema["properties"];
  EXPECT_EQ(keys.size(), 10u) << out;
  EXPECT_FALSE(keys.contains("needed"));  // a flag only
  EXPECT_EQ(keys["queue_max"]["type"], "integer");
  EXPECT_EQ(keys["queue_max"]["maximum"], 100);
  EXPECT_EQ(keys["ratio"]["type"], "number");
  EXPECT_EQ(keys["verbose"]["type"], "boolean");
  EXPECT_EQ(keys["workers"]["items"]["type"], "string");
  EXPECT_EQ(keys["audit"]["additionalProperties"], false);
  const std::vector<std::string> classes = {"enforced", "bounded"};
  EXPECT_EQ(keys["audit"]["properties"]["class"]["enum"], classes);
  const std::regex size(keys["kv_bytes"]["pattern"].get<std::string>());
  for (const char* good : {"1GiB", "1.5 MiB", "4096"}) EXPECT_TRUE(std::regex_match(good, size));
  for (const char* bad : {"1Gi", "lots", "", "-1"})
    EXPECT_FALSE(std::regex_match(bad, size)) << bad;
  const std::regex time(keys["timeout"]["pattern"].get<std::string>());
  for (const char* good : {"500ms", "30s", "5m", "7"}) EXPECT_TRUE(std::regex_match(good, time));
  for (const char* bad : {"30 seconds", "s"}) EXPECT_FALSE(std::regex_match(bad, time)) << bad;
  EXPECT_EQ(keys["tenants"]["description"], "tenants");
}

TEST_F(OptionsTest, HelpAndVersionGoToStdout) {
  EXPECT_EQ(Parse({"--help"}), 0);
  EXPECT_NE(out.find("--queue-max"), std::string::npos);
  EXPECT_NE(out.find("1..100"), std::string::npos) << out;
  EXPECT_EQ(Parse({"--version"}), 0);
  EXPECT_NE(out.find("choir-test 0."), std::string::npos);
}

TEST_F(OptionsTest, BrokenYamlNamesTheFile) {
  const std::string file = File("router: [unclosed\n");
  EXPECT_EQ(Parse({"--config", file.c_str()}), 2);
  EXPECT_NE(err.find(file), std::string::npos);
  EXPECT_EQ(Parse({"--config", "/nonexistent.yaml"}), 2);
  EXPECT_NE(err.find("/nonexistent.yaml"), std::string::npos);
}

TEST(OptionsPositionalTest, ANameWithoutDashesIsPositional) {
  std::string dir;
  OptionSet options("choir model info", "Describes a directory.", "");
  options.Add(&dir, {.flag = "DIR", .help = "model directory", .required = true});
  const char* args[] = {"choir model info", "/models/x"};
  EXPECT_EQ(options.Parse(2, args), std::nullopt);
  EXPECT_EQ(dir, "/models/x");
}

TEST(OptionsPositionalTest, MayStandBehindAFlagsValue) {
  std::string dir, request;
  OptionSet options("choir audit show", "Shows records.", "");
  options.Add(&dir, {.flag = "DIR", .help = "directory", .required = true});
  options.Add(&request, {.flag = "--request", .help = "of one request"});
  const char* args[] = {"choir audit show", "--request", "r", "/logs"};
  EXPECT_EQ(options.Parse(4, args), std::nullopt);
  EXPECT_EQ(request + " " + dir, "r /logs");
}

TEST(ParseBytesTest, UnitsAreReadAndNonsenseIsRefused) {
  EXPECT_EQ(*ParseBytes("1GiB"), uint64_t{1} << 30);
  EXPECT_EQ(*ParseBytes("1.5 MiB"), uint64_t{1572864});
  EXPECT_EQ(*ParseBytes("10MB"), uint64_t{10000000});
  for (const char* bad : {"", "-1", "1XB", "nan", "1e30", "GiB"})
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
}

TEST(NearestNameTest, FarWordsHaveNoNearName) {
  EXPECT_EQ(NearestName("temprature", {"temperature", "top_p"}), "temperature");
  EXPECT_EQ(NearestName("zzzzzz", {"temperature", "top_p"}), "");
}

}  // namespace
}  // namespace choir
