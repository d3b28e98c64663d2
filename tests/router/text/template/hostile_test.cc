// Templates that try to use up the stack, the memory or the time end in one clear error, quickly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "router/text/chat_template.h"

namespace choir {
namespace {

using Json = nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string Repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::string Outcome(const std::string& text, const TemplateLimits& limits = TemplateLimits()) {
  const Json request = {{"messages", {{{"role", "user"}, {"content", "x"}}}}};
  const auto parsed = ChatTemplate::FromText(text, Json::object());
  if (!parsed.ok()) return "load: " + MessageOf(parsed.status());
  const auto rendered = (*parsed)->Render(request, Clock::Real(), limits);
  if (rendered.ok()) return *rendered;
  EXPECT_EQ(rendered.status().code(), absl::StatusCode::kInvalidArgument);
  return MessageOf(rendered.status());
}

TEST(HostileTemplate, IntegersBeyond64BitsFailOnlyWhereTheyAreEvaluated) {
  EXPECT_EQ(Outcome("{% if false %}{{ 99999999999999999999 + x.99999999999999999999 }}"
                    "{% endif %}{{ 0xFFFFFFFFFFFFFFFFFFFF if false else 'ok' }}"),
            "ok");
  EXPECT_THAT(Outcome("a\n{{ -99999999999999999999 }}"),
              AllOf(HasSubstr("line 2"), HasSubstr("integer 99999999999999999999 does not fit"),
                    Not(HasSubstr("load: "))));
  const std::string min = "(-9223372036854775807 - 1)";
  EXPECT_EQ(Outcome("{{ " + min + " }}"), "-9223372036854775808");
  for (const char* rest : {" // -1", " * -1", " - 1", "|abs"}) {
    EXPECT_THAT(Outcome("{{ " + min + rest + " }}"), HasSubstr("does not fit in 64 bits")) << rest;
  }
  EXPECT_EQ(Outcome("{{ " + min + " % -1 }}"), "0");
}

TEST(HostileTemplate, MayNotNestBracketsOrBlocksWithoutEnd) {
  constexpr int kMany = 100'000;
  EXPECT_THAT(Outcome("{{ " + Repeat("(", kMany) + "1" + Repeat(")", kMany) + " }}"),
              HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{{ " + Repeat("[", kMany) + "1" + Repeat("]", kMany) + " }}"),
              HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{{ " + Repeat("{1:", kMany) + "1" + Repeat("}", kMany) + " }}"),
              HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{{ " + Repeat("-", kMany) + "1 }}"), HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{{ " + Repeat("x if y else ", kMany) + "1 }}"), HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{{ " + Repeat("f(", kMany) + Repeat(")", kMany) + " }}"),
              HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{{ " + Repeat("x[", kMany) + "1" + Repeat("]", kMany) + " }}"),
              HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{{ x is " + Repeat("in x is ", kMany)), HasSubstr("load: "));
  EXPECT_THAT(Outcome(Repeat("{% if x %}", kMany)), HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome(Repeat("{% for x in y %}", kMany)), HasSubstr("nest deeper"));
  EXPECT_THAT(Outcome("{% set " + Repeat("(", kMany)), HasSubstr("load: "));
}

TEST(HostileTemplate, MayNotChainOperationsWithoutEnd) {
  constexpr int kMany = 100'000;
  EXPECT_THAT(Outcome("{{ x" + Repeat(".a", kMany) + " }}"), HasSubstr("in a row"));
  EXPECT_THAT(Outcome("{{ x" + Repeat("|upper", kMany) + " }}"), HasSubstr("in a row"));
  EXPECT_THAT(Outcome("{{ " + Repeat("not ", kMany) + "x }}"), HasSubstr("in a row"));
  EXPECT_EQ(Outcome("{{ 0" + Repeat("+1", kMany) + " }}"), "100000");
  EXPECT_EQ(Outcome("{{ true" + Repeat(" and 1", kMany) + " }}"), "1");
}

TEST(HostileTemplate, MayNotRecurseWithoutEnd) {
  EXPECT_THAT(Outcome("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), HasSubstr("nest"));
  EXPECT_THAT(
      Outcome("{% macro f(n) %}{% if true %}{% for i in [1] %}{{ [[f(n)]] }}{% endfor %}{% endif %}"
              "{% endmacro %}{{ f(1) }}"),
      HasSubstr("nest"));
  EXPECT_THAT(Outcome("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
              HasSubstr("nest"));
  EXPECT_THAT(Outcome("{% macro f() %}{{ caller is defined }}{% call f() %}{{ f() }}{% endcall "
                      "%}{% endmacro %}{{ f() }}"),
              HasSubstr("nest"));
}

TEST(HostileTemplate, MayNotRunWithoutEnd) {
  EXPECT_THAT(
      Outcome("{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
              "{% endfor %}{% endfor %}{% endfor %}"),
      HasSubstr("steps"));
  EXPECT_THAT(
      Outcome(
          "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}"),
      HasSubstr("steps"));
  EXPECT_THAT(Outcome("{{ range(100000)|map('string')|map('upper')|list|sort|join|length }}"
                      "{% for a in range(100000) %}{{ range(100000)|sum }}{% endfor %}"),
              HasSubstr("steps"));
  EXPECT_THAT(Outcome("{% set s = 'x' * 60000000 %}{% for a in range(100000) %}{% set y = 'z' in s "
                      "%}{% endfor %}"),
              HasSubstr("steps"));
}

TEST(HostileTemplate, MayNotMakeHugeTextsOrLists) {
  EXPECT_THAT(Outcome("{{ 'x' * 99999999999 }}"), HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ 'xy' * 9223372036854775807 }}"),
              HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ [1] * 9999999999 }}"), HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ '%999999999d' % 1 }}"), HasSubstr("too large"));
  EXPECT_THAT(Outcome("{{ 'x'.center(99999999999) }}"), HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ 'x'|indent(99999999999) }}"), HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ [1]|batch(99999999999, 0)|list }}"),
              HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ [1]|slice(99999999999)|list }}"),
              HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ [1]|tojson(indent=99999999999) }}"),
              HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ range(99999999999) }}"), HasSubstr("Range too big"));
  EXPECT_THAT(Outcome("{{ ('x' * 9999).replace('x', 'y' * 9999) }}"),
              HasSubstr("a text or list of more than"));
  EXPECT_THAT(Outcome("{{ ('y' * 9999).join(range(9999)|map('string')|list) }}"),
              HasSubstr("a text or list of more than"));
  EXPECT_THAT(
      Outcome("{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
              "{% endfor %}"),
      HasSubstr("a text or list of more than"));
}

TEST(HostileTemplate, MayNotHoldMuchMemoryInSmallPieces) {
  EXPECT_THAT(
      Outcome("{% set ns = namespace(x=[]) %}{% for i in range(99999) %}"
              "{% set ns.x = [ns.x, 'y' * 1000000] if i % 100 else ['y' * 1000000] %}{% endfor %}"),
      testing::AnyOf(HasSubstr("memory"), HasSubstr("steps")));
  EXPECT_THAT(Outcome("{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = ns.x + "
                      "['y' * 1000000] %}"
                      "{% endfor %}"),
              HasSubstr("bytes of memory"));
}

TEST(HostileTemplate, MayNotNestValuesWithoutEnd) {
  for (const char* wrap :
       {"[ns.x]", "{'a': ns.x}", "(ns.x,)", "ns.x|map('string')", "[ns.x|map('list')]"}) {
    EXPECT_THAT(
        Outcome(std::string(
                    "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ") +
                wrap + " %}{% endfor %}{{ ns.x|list }}"),
        HasSubstr("nest deeper"));
  }
}

TEST(HostileTemplate, FreesCycles) {  // a leak shows under the address sanitizer
  EXPECT_EQ(
      Outcome("{% set ns = namespace() %}{% set ns.me = [ns] %}{% macro m() %}{{ caller() }}{% set "
              "ns.c = caller %}"
              "{% endmacro %}{% set ns.m = m %}{% for i in [1, 2] %}{% set p = ns.c %}{% set "
              "ns.loop = loop %}"
              "{{ loop.changed(loop) }}{% macro k() %}{% endmacro %}{% set ns.k = [k, loop] %}"
              "{% call m() %}x{% endcall %}{% endfor %}"),
      "TruexFalsex");
}

// Each of these took minutes with searches that cost the product of both texts.
TEST(HostileTemplate, SearchingIsNotQuadratic) {
  const std::string texts = "{% set s = 'a' * 1000000 %}{% set t = 'a' * 500000 ~ 'b' %}";
  EXPECT_EQ(Outcome(texts + "{{ s.find(t) }} {{ s.rfind(t) }} {{ s.count(t) }} {{ t in s }}"),
            "-1 -1 0 False");
  EXPECT_EQ(Outcome(texts + "{{ s.replace(t, '')|length }} {{ s.split(t)|length }} "
                            "{{ s.rsplit(t)|length }} {{ s.partition(t)|length }} "
                            "{{ s.rpartition(t)[2]|length }}"),
            "1000000 1 1 3 1000000");
  EXPECT_EQ(Outcome("{{ 'abcabc'.rfind('abc') }} {{ 'xyx'.rfind('') }} {{ 'aXb'.rsplit('X') }}"),
            "3 3 ['a', 'b']");
  EXPECT_THAT(Outcome("{% set s = '\u00e9' * 1000000 %}"
                      "{% for i in range(5000) %}{% set u = s|upper %}{% endfor %}"),
              HasSubstr("steps"));
}

TEST(HostileTemplate, StopsAtTheLimitsThatAreGiven) {
  TemplateLimits limits;
  limits.output_bytes_max = 10;
  EXPECT_EQ(Outcome("0123456789", limits), "0123456789");
  EXPECT_THAT(Outcome("0123456789a", limits), HasSubstr("more than 10 bytes"));
  EXPECT_THAT(Outcome("{% for i in range(11) %}x{% endfor %}", limits),
              HasSubstr("more than 10 bytes"));
  limits = TemplateLimits();
  limits.steps_max = 20;
  EXPECT_EQ(Outcome("{% for i in [1] %}x{% endfor %}", limits), "x");
  EXPECT_THAT(Outcome("{% for i in [1, 2, 3, 4, 5] %}x{% endfor %}", limits),
              HasSubstr("more than 20 steps"));
  limits = TemplateLimits();
  limits.depth_max = 3;
  const std::string macro =
      "{% macro f(n) %}{% if n > 1 %}{{ f(n - 1) }}{% endif %}{{ n }}{% endmacro %}";
  EXPECT_EQ(Outcome(macro + "{{ f(3) }}", limits), "123");
  EXPECT_THAT(Outcome(macro + "{{ f(4) }}", limits), HasSubstr("calls nest deeper than 3"));
}

TEST(HostileTemplate, NamesTheLineWhereSomethingIsNotClosed) {
  EXPECT_EQ(Outcome("a\n{% if x %}\nb"), "load: chat template, line 2: 'if' has no 'endif'");
  EXPECT_EQ(Outcome("a\n{# x"), "load: chat template, line 2: missing end of comment");
  EXPECT_EQ(Outcome("a\n{% raw %} x"), "load: chat template, line 2: missing end of raw block");
  EXPECT_EQ(Outcome("a\n{{ 'x }}"), "load: chat template, line 2: a string is not closed");
  EXPECT_EQ(Outcome("\n{{ x"),
            "load: chat template, line 2: unexpected end of template inside a tag");
  EXPECT_EQ(Outcome("\xff"), "load: chat template: the text is not valid UTF-8");
}

}  // namespace
}  // namespace choir
