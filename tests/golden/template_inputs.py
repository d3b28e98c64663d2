"""What make_template_goldens.py renders: variables, templates of single constructs, conversations."""

VARIABLES = {
    "s": "Hello, World", "u": "héÉß wörld\tⅣ 中文", "e": "", "sp": "  a b  c\n\td ", "i": 7, "z": 0,
    "neg": -3, "f": 2.5, "g": 1e-07, "h": 1e16, "b": True, "n": None, "l": [3, 1, 2],
    "ls": ["b", "A", "c", "a"], "le": [], "d": {"a": 1, "b": "x", "items": 5, "c": None}, "de": {},
    "nest": {"x": [{"y": 1}, {"y": 2, "t": ["q"]}], "k": {"z": [1.0, None, True]}},
    "ms": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yo", "n": 2},
           {"role": "User", "content": None}],
    "q": "it's \"q\"\n\\ \x01", "emoji": "👩‍🚀 \U0001F600",
}

# White space, statements and scopes: what does not fit on a line of expressions.txt.
CONSTRUCTS = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}  \nc\n\n",
    "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
    "a\n   {%+ if true %}\nb{%+ endif +%}\nc",
    "a\n   {{ 1 }}\n   {{- 2 -}}\n   b",
    "a\n  {# one #}\nb {#- two -#} c\n  {#+ three +#}\nd",
    "x\n{% raw %}\n {{ not }} {% read %}\n{% endraw %}\ny",
    "x {%- raw -%} \n {{ a }} \n {%- endraw -%} y",
    "line\r\nends\rare {{ 'a\r\nb'|length }}\n",
    "{{ '\\n\\t\\x41\\u00e9\\U0001F600\\101\\q\\\\' }}", "{{ \"a\" 'b' \"c\" }}", "{{ 'a\nb' }}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}"
    "{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('p', 'q') }}"
    "{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }};{% endfor %}",
    "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in le %}x{% else %}none{% endfor %}|{% for x in l %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in l %}{% break %}{% else %}else{% endfor %}",
    "{% for x in l %}{% if x == 3 %}{% continue %}{% endif %}{{ x }}{% else %}else{% endfor %}",
    "{% for x in range(10) %}{% if x is odd %}{% continue %}{% endif %}{% if x > 6 %}{% break %}"
    "{% endif %}{{ x }}{% endfor %}",
    "{% for x in range(9) if x is divisibleby 3 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in range(9) if ns.n < 3 %}{% set ns.n = ns.n + 1 %}{{ x }}"
    "{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in range(9) if ns.n < 3 %}{% set ns.n = ns.n + 1 %}"
    "{{ loop.last }}{{ x }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3)), [4, [5, 6]]] %}{{ a }}{{ b }}{{ c }};{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }} {% endfor %}{% for k in d %}{{ k }}{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for c in 'añ😀' %}[{{ c }}]{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a in 5 %}{% endfor %}",
    "{% for a in n %}{% endfor %}", "{% for a in undef %}x{% else %}y{% endfor %}",
    "{% for n in [[1, [2, [3]]], 4] recursive %}{% if n is iterable %}<{{ loop(n) }}>"
    "{% else %}{{ n }}@{{ loop.depth0 }}{% endif %}{% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set x, y = 1, 'two' %}{{ y }}{{ x }}", "{% set x = 1, 2 %}{{ x }}", "{% set x = 1, %}{{ x }}",
    "{% set x %}a {{ i }} b{% endset %}{{ x }}", "{% set x | upper | trim %} abc {% endset %}[{{ x }}]",
    "{% set ns = namespace(a=1, b='x') %}{% set ns.c = [ns.a] %}{{ ns.a }}{{ ns['b'] }}{{ ns.c }}{{ ns.d }}",
    "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a + ns.b }}", "{% set d.x = 1 %}", "{% set undef.x = 1 %}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set ns = namespace() %}{% set ns.a, y = 1, 2 %}{{ ns.a }}{{ y }}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 5 %}{{ a }}{% endwith %}{{ a }}",
    "{% with %}{% set q = 1 %}{% endwith %}{{ q is defined }}",
    "{% filter upper %}a{{ s }}{% endfilter %}{% filter replace('a', 'b')|upper %}aaa{% endfilter %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m() }} {{ m(a=9, b=8) }}",
    "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(a=s, s=1) %}{{ a }}{{ s }}{% endmacro %}{{ m() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %},{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}in {{ s }}{% endcall %}",
    "{% macro m(x) %}{{ caller(x, 2) }}{% endmacro %}{% call(a, b) m(1) %}{{ a }}+{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ later }}{% endmacro %}{% set later = 3 %}{{ m() }}",
    "{% macro m() %}{% set s = 1 %}{{ s }}{% endmacro %}{{ m() }}{{ s }}", "{{ m() }}{% macro m() %}x{% endmacro %}",
    "{% macro m() %}x{% endmacro %}{{ m is callable }}",
    "{% generation %}{{ s }}{% set s = 1 %}{% endgeneration %}{{ s }}", "{% print s, i %}",
    "{% if a is defined %}1{% elif i > 5 %}2{% else %}3{% endif %}", "{% if i: %}yes{% endif %}",
    "{% if false %}{{ x|nosuchfilter }}{% endif %}ok", "{% if true %}{{ x|nosuchfilter }}{% endif %}",
    "{{ x|nosuchfilter }}", "{{ x is nosuchtest }}", "{{ (x|nosuch) if false else 1 }}", "{% for x in l %}{{ x|nosuch }}{% endfor %}",
    "{{ raise_exception('stop: ' ~ i) }}", "{% nosuchtag %}", "{% if true %}", "{% endif %}", "{% for x in l %}",
    "{{ 1 + }}", "{{ (1 }}", "{{ 'abc }}", "{% raw %}x", "{# x", "{{ 1", "{% set %}", "{% set 1 = 2 %}", "{% break %}",
    "{% macro m(a=1, b) %}{% endmacro %}", "{{ f(a=1, 2) }}", "{{ [1, 2 }}", "{{ {'a' 1} }}", "{{ 1 if }}", "{% if %}x{% endif %}",
    "{{ undef.x }}", "{{ undef() }}", "{{ undef + 1 }}", "{{ d.x.y }}", "{{ n.x }}", "{{ n.x.y }}", "{{ n['x'] }}",
    "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ d.pop }}", "{{ s.__class__ }}", "{{ s.__class__.mro() }}", "{{ 5() }}",
    "{{ strftime_now('%d %b %Y|%Y-%m-%d|%H:%M:%S|%j %A %B %y %p %%') }}", "{{ range(100001) }}", "{{ range(0, 10, 0) }}",
    "{% for x in l %}{% set outer = loop %}{% for y in [1, 2] %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{% for n in [{'v': 1, 'c': [{'v': 2, 'c': []}]}] recursive %}{{ n.v }}{% if n.c %}({{ loop(n.c) }}){% endif %}{% endfor %}",
    "{% for a in [1, 2, 3] %}{% for b in [1, 2] %}{% if b == 2 %}{% break %}{% endif %}{{ a }}{{ b }}{% endfor %}{% endfor %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% macro outer() %}{% macro inner() %}I{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}",
    "{% macro a(x, y=[]) %}{{ x }}{{ y }}{% endmacro %}{{ a(*[1, 2]) }}{{ a(**{'x': 5}) }}", "{% macro a(x) %}{{ x }}{% endmacro %}{{ a(1, x=2) }}",
    "{% for i in [1] %}{% macro a() %}{{ i }}{% endmacro %}{{ a() }}{% endfor %}", "{% set a, b = [1, 2] %}{% set a, b = b, a %}{{ a }}{{ b }}",
    "{% set a, b = [1] %}", "{% set a, b = [1, 2, 3] %}", "{% set ns = namespace(x=[]) %}{% for i in l %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=1) %}{% set ns.y %}blk{{ ns.x }}{% endset %}{{ ns.y }}", "{% filter indent(2) %}a\nb{% endfilter %}",
    "{% filter upper %}a{% filter trim %} b {% endfilter %}{% endfilter %}", "{% do l.append(1) %}", "{% include 'x' %}", "{% extends 'x' %}",
    "{{ dict(a=1, **{'b': 2}) }}{{ dict([('x', 1)]) }}{{ dict(d, a=9) }}", "{{ messages is undefined }}",
    "{%- for m in ms %}{{ '<' + m.role + '>' }}{{ m.content or '-' }}{%- if not loop.last %}{{ '\\n' }}{% endif %}{% endfor -%}  \n x",
]

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a city, <now> & \"later\"",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Name, e.g. Zürich"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "array", "items": {"type": "integer"}, "default": [1, 2]}}}}},
    {"type": "function", "function": {
        "name": "store", "description": "Keeps a thing",
        "parameters": {"type": "object", "properties": {
            "thing": {"type": "object", "required": ["id"], "properties": {
                "id": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                "note": {"type": ["string", "null"]}}},
            "ratio": {"type": "number", "default": 1e-07}, "flag": {"type": "boolean", "nullable": True}}}}},
    {"type": "function", "function": {"name": "noop", "description": "Nothing", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, call_id="call00001"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


NESTED = {"thing": {"id": 7, "tags": [["a", "b"], []], "note": None}, "ratio": 1e-07, "big": 12345678901234, "flag": True}

CONVERSATIONS = {
    "user": {"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": True},
    "user_no_prompt": {"messages": [{"role": "user", "content": "Hello"}], "add_generation_prompt": False},
    "system": {"messages": [{"role": "system", "content": "  Be brief. "}, {"role": "user", "content": "Hi\n"}],
               "add_generation_prompt": True},
    "multi_turn": {"messages": [
        {"role": "system", "content": "S"}, {"role": "user", "content": "1"}, {"role": "assistant", "content": "one "},
        {"role": "user", "content": "2"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "3"}],
        "add_generation_prompt": True},
    "ends_with_assistant": {"messages": [
        {"role": "user", "content": "1"}, {"role": "assistant", "content": "one"}], "add_generation_prompt": False},
    "two_users": {"messages": [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}],
                  "add_generation_prompt": True},
    "two_systems": {"messages": [{"role": "system", "content": "A"}, {"role": "system", "content": "B"},
                                 {"role": "user", "content": "2"}], "add_generation_prompt": True},
    "unicode": {"messages": [{"role": "user", "content": "Zażółć 中文 \u200d👩‍🚀\u00a0\r\n<|im|>\\n \"q\" 'x' <b>&amp;"}],
                "add_generation_prompt": True},
    "empty_text": {"messages": [{"role": "user", "content": ""}], "add_generation_prompt": True},
    "reasoning": {"messages": [
        {"role": "user", "content": "1"}, {"role": "assistant", "content": "one", "reasoning_content": "\nhm\n"},
        {"role": "user", "content": "2"}, {"role": "assistant", "content": "two", "reasoning": "so"}],
        "add_generation_prompt": False},
    "reasoning_in_text": {"messages": [
        {"role": "user", "content": "1"}, {"role": "assistant", "content": "<reason>\nhm\n</reason>\n\none"},
        {"role": "user", "content": "2"}], "add_generation_prompt": True},
    "thinking_off": {"messages": [{"role": "user", "content": "1"}], "add_generation_prompt": True,
                     "kwargs": {"enable_thinking": False, "thinking": False, "reasoning_effort": "high"}},
    "thinking_on": {"messages": [{"role": "user", "content": "1"}], "add_generation_prompt": True,
                    "kwargs": {"enable_thinking": True, "thinking": True, "model_identity": "You are Ü."}},
    "tools": {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Weather?"}], "tools": TOOLS,
              "add_generation_prompt": True},
    "tools_no_system": {"messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS[:1],
                        "add_generation_prompt": True},
    "no_tools": {"messages": [{"role": "user", "content": "Weather?"}], "tools": [], "add_generation_prompt": True},
    "tool_turn": {"messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "reasoning_content": "call it",
         "tool_calls": [call("get_weather", {"city": "Zürich", "days": [1, 2]})]},
        {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"t\": 21.5}"}],
        "tools": TOOLS, "add_generation_prompt": True},
    "tool_turn_done": {"messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call("store", NESTED)]},
        {"role": "tool", "tool_call_id": "call00001", "content": "ok"},
        {"role": "assistant", "content": "Done."}, {"role": "user", "content": "Thanks"}],
        "tools": TOOLS, "add_generation_prompt": True},
    "two_calls": {"messages": [
        {"role": "user", "content": "Both"},
        {"role": "assistant", "content": None, "tool_calls": [call("noop", {}), call("store", NESTED, "call00002")]},
        {"role": "tool", "tool_call_id": "call00001", "content": "a"},
        {"role": "tool", "tool_call_id": "call00002", "content": "b"}], "tools": TOOLS, "add_generation_prompt": True},
    "arguments_as_text": {"messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call("noop", "{\"a\": 1}")]},
        {"role": "tool", "tool_call_id": "call00001", "content": "r"}], "add_generation_prompt": True},
    "tool_calls_null": {"messages": [
        {"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "tool_calls": None},
        {"role": "user", "content": "z"}], "add_generation_prompt": True},
    "orphan_tool": {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "r"}],
                    "add_generation_prompt": True},
    "odd_role": {"messages": [{"role": "critic", "name": "N", "content": "x"}], "add_generation_prompt": True},
}
PARTS = {"messages": [{"role": "user", "content": [
    {"type": "text", "text": " a "}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "b"}]}],
    "add_generation_prompt": True}
TAKES_PARTS = ("parts_like", "glm_like", "kimi_like")
