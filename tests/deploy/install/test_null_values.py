"""Null takes a default away. For any value of values.yaml, and any that the schema knows, it is refused in plain words, or is taken."""
import json

import pytest
import yaml

from conftest import CHART, merged, needed, refusal

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
NO_WORDS = ("nil pointer", "error calling", "wrong type", "can't evaluate", "invalid value", "interface conversion", "incompatible types")


def defaults(values, path=()):
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from defaults(value, (*path, key))


def properties(schema, path=()):
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for key, inner in schema.get("properties", {}).items():
        yield (*path, key)
        yield from properties(inner, (*path, key))


VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
DEFAULTS = list(defaults(VALUES))
OTHERS = sorted(set(properties(SCHEMA)) - set(DEFAULTS))


def null_at(path):
    values = None
    for key in reversed(path):
        values = {key: values}
    return merged(needed(), values)


def test_there_is_something_to_try():
    assert len(DEFAULTS) > 150 and len(OTHERS) > 150


@pytest.mark.parametrize("path", DEFAULTS, ids=".".join)
def test_a_default_that_is_taken_away_is_missed(path):
    said = refusal(null_at(path))
    assert not any(words in said for words in NO_WORDS), said
    if "resources" not in path[:-1]:  # requests and limits may be taken away
        assert f"missing property '{path[-1]}'" in said


@pytest.mark.parametrize("path", OTHERS, ids=".".join)
def test_null_is_no_value(path):
    said = refusal(null_at(path))
    assert not any(words in said for words in NO_WORDS), said
    assert f"at '/{'/'.join(path)}'" in said or (not said and "resources" in path), said
