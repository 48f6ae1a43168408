"""A second opinion: reads [[schema, [value, ...]], ...], prints for each value whether it is valid."""

import json
import sys

from jsonschema import Draft202012Validator


def opinions(schema, values):
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    return [validator.is_valid(value) for value in values]


json.dump([opinions(schema, values) for schema, values in json.load(sys.stdin)], sys.stdout)
