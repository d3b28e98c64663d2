#!/usr/bin/env python3
"""Writes template/{expressions,constructs,conversations}.json: what transformers renders from the templates
of template_inputs.py, template/expressions.txt (one template a line) and template/*.jinja. README.md."""
import datetime
import glob
import json
import os

import transformers.utils.chat_template_utils as hf

from template_inputs import CONSTRUCTS, CONVERSATIONS, PARTS, TAKES_PARTS, VARIABLES

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "template")
TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>"}


class FrozenTime(datetime.datetime):
    """strftime_now's clock; the C++ test has the same time, in UTC."""

    @classmethod
    def now(cls, tz=None):
        return cls(2025, 3, 9, 17, 5, 6)


hf.datetime = FrozenTime


def render(template, request):
    """The text, or the error. Choir shows content None as "", transformers drops it."""
    messages = [{k: "" if k == "content" and v is None else v for k, v in m.items()} for m in request["messages"]]
    try:
        rendered, _ = hf.render_jinja_template(
            conversations=[hf._normalize_chat_messages(messages)], tools=request.get("tools"), documents=None,
            chat_template=template, add_generation_prompt=request.get("add_generation_prompt", False),
            **{**TOKENS, **request.get("kwargs", {})})
        return {"text": rendered[0]}
    except Exception as error:
        raised = type(error).__name__ == "TemplateError"
        return {"error": str(error) if raised else "", "raised": raised}


def write(name, data):
    path = os.path.join(HERE, name)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, indent=1)
        f.write("\n")
    print(f"{name}: {len(data['cases'])} cases, {os.path.getsize(path)} bytes")


def main():
    request = {"messages": [{"role": "user", "content": "x"}], "kwargs": VARIABLES}
    with open(os.path.join(HERE, "expressions.txt"), encoding="utf-8") as f:
        expressions = f.read().splitlines()
    for name, templates in (("expressions.json", expressions), ("constructs.json", CONSTRUCTS)):
        cases = [{"template": t, **render(t, request)} for t in templates if t]
        write(name, {"tokens": TOKENS, "request": request, "cases": cases})
    cases = []
    for path in sorted(glob.glob(os.path.join(HERE, "*.jinja"))):
        name = os.path.basename(path).removesuffix(".jinja")
        with open(path, encoding="utf-8") as f:
            template = f.read()
        for key, conversation in CONVERSATIONS.items():
            cases.append({"template": name, "request": key, **render(template, conversation)})
        if name in TAKES_PARTS:
            cases.append({"template": name, "request": "parts", **render(template, PARTS)})
    write("conversations.json", {"tokens": TOKENS, "requests": {**CONVERSATIONS, "parts": PARTS}, "cases": cases})


if __name__ == "__main__":
    main()
