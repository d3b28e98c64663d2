"""A throw-away copy of a golden checkpoint that a case damages."""
import dataclasses
import json
import os
import pathlib
import shutil
import struct
import typing

CHECKPOINTS = pathlib.Path(__file__).resolve().parents[2] / "golden" / "checkpoints"


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    damage: typing.Callable[["Model"], None]
    file: str                # the error names this file
    field: str | None        # and this field of it, or what about it is wrong; None: it may also be served
    base: str = "tiny_glm4_moe"
    commands: tuple = ("logits", "info")
    remedy: str = "; "       # what begins the part of the message that says what to do


class Model:
    def __init__(self, path, base):
        self.path = pathlib.Path(path)
        shutil.copytree(CHECKPOINTS / base, self.path)
        (self.path / "expected.json").unlink()

    def __truediv__(self, name):
        return self.path / name

    def write(self, name, content):
        self.remove(name)
        (self / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def remove(self, name):
        (self / name).unlink(missing_ok=True)

    def edit(self, name, change):
        """Rewrites a JSON file after change(value) edited it in place."""
        value = json.loads((self / name).read_text())
        change(value)
        self.write(name, json.dumps(value, ensure_ascii=False))

    def header(self, name="model.safetensors"):
        """(header, data) of a weight file."""
        content = (self / name).read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        return json.loads(content[8:8 + size]), content[8 + size:]

    def write_header(self, header, data, name="model.safetensors"):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.write(name, struct.pack("<Q", len(text)) + text + data)

    def edit_header(self, change, name="model.safetensors"):
        header, data = self.header(name)
        change(header)
        self.write_header(header, data, name)

    def become(self, name, kind):
        """Replaces a file by something that is none."""
        self.remove(name)
        path = self / name
        if kind == "directory":
            path.mkdir()
        elif kind == "circle":
            (self / "other").symlink_to(path)
            path.symlink_to(self / "other")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "zero":
            path.symlink_to("/dev/zero")
        elif kind == "dangling":
            path.symlink_to(self / "nowhere")
        elif kind == "empty":
            path.write_bytes(b"")
        elif kind == "unreadable":
            shutil.copy(CHECKPOINTS / "tiny_glm4_moe" / name, path)
            path.chmod(0)
        else:
            raise ValueError(kind)


def odd_kinds(file, commands, base="tiny_glm4_moe"):
    """The ways in which a file can be no readable file."""
    fields = {"directory": "regular file", "circle": "circular", "fifo": "regular file", "zero": "regular file",
              "dangling": "missing", "unreadable": "permissions"}
    return [Case(f"{file}_{kind}", lambda m, kind=kind: m.become(file, kind), file, field, base, commands)
            for kind, field in fields.items()]


def broken_json(file, commands, base="tiny_glm4_moe"):
    """The ways in which a file can be no JSON object."""
    texts = {
        "empty": "", "cut": '{"a": [1, 2', "text": "hello", "list": "[]", "nan": '{"a": NaN}',
        "infinity": '{"a": -Infinity}', "overflow": '{"a": 1e999}', "twice": '{"a": 1, "a": 2}',
        "not_utf8": b'{"a": "\xff\xfe"}', "nested": '{"a": ' + "[" * 200_000,
        "nested_closed": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nul": b"\0" * 64,
    }
    fields = {"list": "object", "twice": "twice", "nested": "nested", "nested_closed": "nested"}
    return [Case(f"{file}_{name}", lambda m, text=text: m.write(file, text), file, fields.get(name, "JSON"), base,
                 commands) for name, text in texts.items()]
