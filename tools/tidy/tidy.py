#!/usr/bin/env python3
"""The house rules that a machine can check: who includes whom, sizes, banned calls, the folder map, the table of complaints.

usage: tools/tidy/tidy.py [ROOT]   prints one line a finding, exit 1 when there is any.
Rules are data: rules.json. Exceptions, with a reason each: allow.txt ("RULE PATH reason").
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
HERE = pathlib.Path(__file__).resolve().parent
RULES = json.loads((HERE / "rules.json").read_text())
FOLDERS = ["common", "kernels", "worker", "router", "gateway", "tools", "tests"]
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def allowed():
    out = {}
    for line in (HERE / "allow.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            rule, path, reason = line.split(maxsplit=2)
            out[(rule, path)] = reason
    return out


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".h", ".cc", ".cu", ".cuh", ".inl"):
                yield path, path.relative_to(ROOT).as_posix()


def under(name, prefix):
    return name == prefix or name.startswith(prefix.rstrip("/") + "/")


def check_includes(name, lines):
    table = {k: v for k, v in RULES["includes"].items() if k != "comment"}
    home = max((k for k in table if under(name, k)), key=len, default=None)
    for number, line in lines:
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(1)
        for prefix, folders in RULES["only_under"].items():
            if prefix != "comment" and header.startswith(prefix) and not any(under(name, f) for f in folders):
                yield "include", number, f"{header} may be included under {', '.join(folders)} only"
        top = header.split("/")[0]
        if home is None or name.endswith("main.cc") or name.startswith("tests/"):
            continue
        if top in FOLDERS and not under(header, home) and not any(under(header, a) for a in table[home]):
            yield "include", number, f"{home} may not include {header}"
        if top == "tests":
            yield "include", number, "nothing includes tests/"


def strip_comment(line):
    line = re.sub(r"'(\\.|[^'\\])'", "' '", line)
    return re.sub(r'"(\\.|[^"\\])*"', '""', line).split("//")[0]


def function_sizes(lines):
    """Approximate: a block opened by a line that ends a parameter list, at namespace or class depth."""
    depth_open, start, depth = None, 0, 0
    opener = re.compile(r"\)\s*(const|noexcept|override|final|->[^{;]*|:[^;{]*|\s)*\{\s*$")
    control = re.compile(r"^\s*(if|for|while|switch|else|do|try|catch|namespace|return|case)\b|\]\s*\(|\[[^\]]*\]\s*\{")
    for number, raw in lines:
        line = strip_comment(raw)
        if depth_open is None and opener.search(line) and not control.search(line):
            depth_open, start = depth, number
        depth += line.count("{") - line.count("}")
        if depth_open is not None and depth <= depth_open:
            yield start, number - start + 1
            depth_open = None


def check_file(path, name):
    text = path.read_text(errors="replace")
    lines = list(enumerate(text.splitlines(), 1))
    limits = RULES["limits"]
    test = name.startswith("tests/")
    most = limits["test_file"] if test else limits["file"]
    if len(lines) > most:
        yield "file-size", 1, f"{len(lines)} lines, the limit is {most}"
    for number, line in lines:
        if len(line) > limits["columns"] and "http" not in line and 'R"' not in line:
            yield "columns", number, f"{len(line)} columns, the limit is {limits['columns']}"
        code = strip_comment(line)
        for pattern, why in RULES["banned"]:
            searched = line if "TODO" in pattern else code  # notes to self hide in comments
            if re.search(pattern, searched):
                yield "banned", number, why
        if re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b", line) and name not in RULES["preprocessor_allowed"]:
            yield "preprocessor", number, "backends are files, not #if"
    for start, size in function_sizes(lines):
        if size > limits["function"] and not test:
            yield "function-size", start, f"a function of {size} lines, the limit is {limits['function']}"
    yield from check_includes(name, lines)


def check_map():
    """Every folder with sources is in docs/architecture.md's map, and every folder of the map exists."""
    page = ROOT / "docs" / "architecture.md"
    if not page.exists():
        yield "map", "docs/architecture.md", 1, "is missing"
        return
    text = page.read_text()
    named = set(re.findall(r"^\| `([a-z_0-9/]+)/` \|", text, re.M))
    there = {p.parent.relative_to(ROOT).as_posix() for p, n in sources() if not n.startswith("tests/")}
    for folder in sorted(there - named):
        yield "map", "docs/architecture.md", 1, f"does not name the folder {folder}/"
    for folder in sorted(named):
        if not (ROOT / folder).is_dir():
            yield "map", "docs/architecture.md", 1, f"names {folder}/, which is gone"


def test_is_there(path, name):
    """`name` is Suite.Test of GoogleTest, or a function of Python."""
    if not path.is_file():
        return False
    if path.suffix == ".py":
        return re.search(rf"^def {re.escape(name)}\(", path.read_text(), re.M) is not None
    suite, _, test = name.partition(".")
    return re.search(rf"^TEST(_F|_P)?\({re.escape(suite)},\s*{re.escape(test)}\)", path.read_text(), re.M) is not None


def check_complaints():
    """docs/complaints.md has a row for each complaint, and every test that it names."""
    name = "docs/complaints.md"
    page = ROOT / name
    if not page.exists():
        yield "complaints", name, 1, "is missing"
        return
    rows = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        row = re.match(r"\| (\d+) \|", line)
        if not row:
            continue
        rows.append(int(row.group(1)))
        tests = re.findall(r"`(tests/[^`:]+)::([\w.]+)`", line)
        if not tests:
            yield "complaints", name, number, f"complaint {rows[-1]} names no test"
        for path, test in tests:
            if not test_is_there(ROOT / path, test):
                yield "complaints", name, number, f"{path} has no test {test}"
    if rows != list(range(1, RULES["complaints"] + 1)):
        yield "complaints", name, 1, f"has rows {rows}, not one for each of {RULES['complaints']}"


def main():
    exceptions, used, findings = allowed(), set(), []
    for path, name in sources():
        for rule, number, what in check_file(path, name):
            if (rule, name) in exceptions:
                used.add((rule, name))
            else:
                findings.append(f"{name}:{number}: [{rule}] {what}")
    findings += [f"{name}:{number}: [{rule}] {what}" for rule, name, number, what in [*check_map(), *check_complaints()]]
    findings += [f"tools/tidy/allow.txt:1: [allow] '{r} {p}' is not needed any more" for r, p in exceptions if (r, p) not in used]
    print("\n".join(findings) if findings else "tidy: nothing to say")
    return 1 if findings else 0


sys.exit(main())
