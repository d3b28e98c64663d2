#!/usr/bin/env python3
"""Runs GoogleTest suites whose tests may break their process, as a kernel that breaks the card does: each suite and table in a
process of its own, several at once. The test in which a process died or stood still is named, and what it had not begun runs in
another process. Python's own library only.

    tools/gpu/suites.py --filter FILTER --seconds 140 [--jobs 4] [--require REGEX] BINARY

Prints the output of tests that did not pass, then a line for each of them and their numbers. Exit codes: 0 all passed, 1 not all,
5 no test is selected."""
import argparse
import concurrent.futures
import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time

NO_TESTS = 5
OUTPUT_LINES = 40  # of a test that did not pass


def listed(options):
    """The names of the selected tests, in the binary's order."""
    out = subprocess.run([options.binary, "--gtest_list_tests", f"--gtest_filter={options.filter}"], env=options.environment,
                         stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    suite, names = "", []
    for line in out.stdout.splitlines():
        word = line.split("#")[0].strip()
        if not line.startswith(" "):
            suite = word
        elif word:
            names.append(suite + word)
    return names


def groups(names):
    """By suite and parameter, which is a table of kernels."""
    found = {}
    for name in names:
        suite, test = name.rsplit(".", 1)
        found.setdefault((suite, test.partition("/")[2]), []).append(name)
    return list(found.values())


def kill(child):
    """With all that it started. One that the driver does not let go is not waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


class Group:
    """Runs tests of one suite in one process after another until each has ended somehow, or time is over."""

    live = []

    def __init__(self, options, names):
        self.options, self.names, self.ended = options, names, {}

    def run(self):
        left = self.names
        while left and not self.late():
            self.process(left)
            still = [name for name in self.names if name not in self.ended]
            if still == left and not self.late():  # it ended before its first test: another will, too
                self.ended.update((name, "died before it began") for name in still)
            left = still
        return {**{name: "not run: no time left" for name in self.names}, **self.ended}

    def late(self):
        return time.monotonic() >= self.options.end

    def process(self, names):
        child = subprocess.Popen([self.options.binary, "--gtest_filter=" + ":".join(names)], env=self.options.environment,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.live.append(child)
        running, output, failed = None, [], False
        try:
            for line in self.lines(child):
                begun = re.match(r"\[ RUN      \] (\S+)", line)
                over = re.match(r"\[ +(OK|FAILED|SKIPPED) +\] (\S+?),? .*\(\d+ ms\)", line)
                if begun:
                    running, output = begun.group(1), []
                elif over and over.group(2) == running:
                    failed |= over.group(1) == "FAILED"
                    self.close(running, {"OK": "passed", "SKIPPED": "skipped"}.get(over.group(1), "failed"), output)
                    running, output = None, []
                else:
                    output.append(line)
            code = child.wait(10)
            good = not running and (code == 0 or (code == 1 and failed))
            how = "passed" if good else f"died with {code}"
        except subprocess.TimeoutExpired:
            how = "hung: it does not end"
        except TimeoutError as error:
            how = str(error)
        finally:
            self.live.remove(child)
            kill(child)
        if how != "passed" and self.late():
            how = "not ended: no time left"
        if running:
            self.close(running, how, output)
        elif how != "passed" and self.ended:  # behind its tests
            self.close(f"{list(self.ended)[-1]} (its process)", how, output)

    def lines(self, child):
        """Its lines, as long as they come."""
        rest = b""
        while True:
            wait = min(self.options.test_seconds, self.options.end - time.monotonic())
            if wait <= 0 or not select.select([child.stdout], [], [], wait)[0]:
                raise TimeoutError(f"hung: {self.options.test_seconds} s without a word")
            read = os.read(child.stdout.fileno(), 65536)
            if not read:
                return
            *whole, rest = (rest + read).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)

    def close(self, name, how, output):
        self.ended[name] = how
        if how not in ("passed", "skipped"):
            print("\n".join([f"-- {name}: {how}", *output[-OUTPUT_LINES:]]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--filter", default="*")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--test-seconds", type=float, default=60, help="that a test may say nothing")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--require", help="a pattern that some test has to match")
    parser.add_argument("--library-path", help="LD_LIBRARY_PATH of the binary; this script may want another")
    options = parser.parse_args()
    options.environment = {**os.environ, **({"LD_LIBRARY_PATH": options.library_path} if options.library_path else {})}
    options.end = time.monotonic() + options.seconds

    def terminate(*_):
        options.end = 0.0
        for child in list(Group.live):
            kill(child)

    signal.signal(signal.SIGTERM, terminate)
    names = listed(options)
    if not names or (options.require and not any(re.search(options.require, name) for name in names)):
        print(f"no test of {options.filter}" + (f" matches {options.require}" if names else " is there"))
        return NO_TESTS
    ended = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda group: Group(options, group).run(), groups(names)):
            ended.update(result)
    if all(how == "skipped" for how in ended.values()):
        print(f"all {len(ended)} tests were skipped")
        return NO_TESTS
    bad = {name: how for name, how in ended.items() if how not in ("passed", "skipped")}
    for name, how in bad.items():
        print(f"{how}: {name}")
    print(f"{len(ended)} tests: {len(ended) - len(bad)} passed, {len(bad)} not")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
