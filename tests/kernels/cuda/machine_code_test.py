#!/usr/bin/env python3
"""Method: looks at the machine code of every kernel of the CUDA module.

Of cards that start kernels early (docs/decisions/0046) it walks the control flow.

From the entry no path may come to global memory, to its end, or to PREEXIT (which lets the next kernel start) but by
ACQBULK (which waits for the kernels ahead). Dense products load weights before (UTMALDG). No load may be of the kind that
memory order does not hold for (LDG.CONSTANT).

Asynchronous tensor products (HGMMA, QGMMA) have to be under way several at a time: where ptxas cannot prove that nobody touches
their sums it waits after each (its note C7515), which costs most of their rate and changes no result.

usage: machine_code_test.py MODULE VENV; exits with 77, and says why, where there is nothing to look at. VENV (tools/python-env)
has cuobjdump.
"""
import collections
import glob
import os
import re
import subprocess
import sys

LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
MEMORY = ("LDG", "STG", "LD", "ST", "LDGSTS", "ATOM", "ATOMG", "RED", "REDG", "UBLKCP", "UBLKPF", "UTMALDG", "UTMASTG", "UTMAREDG")
ENDS = ("EXIT", "PREEXIT", "RET", "CALL", "JMP", "BRX", "BRXU")  # and what would have to be followed
WEIGHTS_AHEAD = "StoreMerged"
Instruction = collections.namedtuple("Instruction", "at guarded op rest")


def faults_of(name, code):
    """What is wrong with a kernel, in words."""
    index = {i.at: n for n, i in enumerate(code)}
    faults = {f"{i.op} at {i.at:#x}" for i in code if i.op.startswith("LDG") and ".CONSTANT" in i.op}
    seen, todo = set(), [(0, frozenset())]  # where a path is, and where threads that parted go on together: (barrier, place)
    while todo:
        n, joins = todo.pop()
        if (n, joins) in seen or n >= len(code):
            continue
        seen.add((n, joins))
        i = code[n]
        kind = i.op.split(".")[0]
        if kind == "ACQBULK" and not i.guarded:
            continue
        if kind in ENDS or kind in MEMORY and not (kind == "UTMALDG" and WEIGHTS_AHEAD in name):
            faults.add(f"{i.op} at {i.at:#x} before ACQBULK")
            continue
        to = [int(place, 16) for place in re.findall(r"0x[0-9a-f]+", i.rest)[-1:]]
        if kind == "BSSY":
            barrier = i.rest.split(",")[0].strip()
            joins = frozenset([join for join in joins if join[0] != barrier] + [(barrier, to[0])])
        elif kind == "BSYNC":
            to = [place for barrier, place in joins if barrier == i.rest.strip()]
        if kind in ("BRA", "BSYNC"):
            todo.extend((index[place], joins) for place in to)
        if kind not in ("BRA", "BSYNC") or i.guarded or re.search(r"\bU?P\d", i.rest):  # "BRA.U UP0, ..." is guarded, too
            todo.append((n + 1, joins))
    products = sum(i.op.startswith(("HGMMA", "QGMMA")) for i in code)
    waits = sum(i.op.startswith("WARPGROUP.DEPBAR") for i in code)
    if 2 * waits > products:
        faults.add(f"{waits} waits for {products} products: ptxas has serialized them")
    return sorted(faults)


def kernels_of(lines):
    """(architecture, name, instructions) of each kernel that cuobjdump tells of."""
    architecture, name, code = "", "", []
    for line in lines:
        head = re.match(r"\s*(code for |Function : )(\S+)", line)
        if head is None:
            if instruction := LINE.match(line):
                at, guard, op, rest = instruction.groups()
                code.append(Instruction(int(at, 16), guard is not None and "PT" not in guard.replace("UP", "P"), op, rest))
            continue
        if code:
            yield architecture, name, code
            code = []
        if head[1] == "code for ":
            architecture = head[2]
        else:
            name = head[2]
    if code:
        yield architecture, name, code


def check_itself():
    """Faults it has to see, and code that has none."""
    def faults(*lines, name="k"):
        text = ["\tcode for sm_90a", f"\t\tFunction : {name}"] + [f"        /*{16 * n:04x}*/   {line} ;   /* 0x0 */" for n, line in enumerate(lines)]
        return faults_of(name, next(kernels_of(text))[2])
    parts = ("BSSY B0, 0x30", "@P0 BRA 0x20", "BSYNC B0", "ACQBULK", "PREEXIT", "LDG.E R3, desc[UR4][R2.64]", "EXIT")
    assert not faults(*parts) and not faults("UTMALDG.2D [UR8], [UR16]", "ACQBULK", "EXIT", name="StoreMerged")
    assert not faults("ACQBULK", "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4]", "HGMMA.64x64x16.F32.BF16 R56, gdesc[UR8]", "WARPGROUP.DEPBAR.LE gsb0, 0x0")
    assert faults("ACQBULK", *("HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4]", "WARPGROUP.DEPBAR.LE gsb0, 0x0") * 4)
    for wrong in (("EXIT",), ("@P0 EXIT", "ACQBULK", "EXIT"), ("PREEXIT", "ACQBULK", "EXIT"), ("LDG.E R3, desc[UR4][R2.64]", "ACQBULK", "EXIT"),
                  ("@P0 ACQBULK", "EXIT"), ("@P0 BRA 0x30", "ACQBULK", "EXIT", "STG.E desc[UR4][R4.64], R3", "BRA 0x10"),
                  ("BRA.U UP0, 0x20", "ACQBULK", "EXIT"), ("UTMALDG.2D [UR8], [UR16]", "ACQBULK", "EXIT"),
                  ("ACQBULK", "LDG.E.CONSTANT R3, desc[UR4][R2.64]", "EXIT")):
        assert faults(*wrong), wrong


def main(module, venv):
    check_itself()
    found = glob.glob(f"{venv}/lib/python3*/site-packages/nvidia/cu*/bin/cuobjdump")
    if not found:
        print(f"nothing was checked: no cuobjdump in {venv}: make it by tools/python-env")
        return 77
    cuobjdump = found[0]
    environment = {**os.environ, "PATH": f"{os.path.dirname(cuobjdump)}:{os.environ['PATH']}"}  # it runs nvdisasm
    counts, failed = collections.Counter(), 0
    with subprocess.Popen([cuobjdump, "-sass", module], stdout=subprocess.PIPE, text=True, env=environment) as told:
        for architecture, name, code in kernels_of(told.stdout):
            counts[architecture] += 1
            if int(re.search(r"\d+", architecture)[0]) < 90:
                continue
            for fault in faults_of(name, code):
                failed += 1
                print(f"{architecture} {name}: {fault}")
    print(", ".join(f"{count} kernels for {architecture}" for architecture, count in sorted(counts.items())))
    if told.returncode != 0 or not counts:
        print(f"cuobjdump failed with {told.returncode}")
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
