"""How Python programs read a line: see tests/src/readers.rs for what comes in and what goes out."""

import io
import json
import struct
import sys

sys.setrecursionlimit(20_000)

# An object that has neither a method nor an id.
NO_MESSAGE = "N -"


def text(value):
    return "s" + value.encode("utf-16-be", "surrogatepass").hex()


def canonical(value):
    if value is None:
        return "N"
    if value is True:
        return "T"
    if value is False:
        return "F"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf") if value > 0 else float("-inf")
        # Zero has no sign, and what is no number has one spelling.
        if number == 0:
            number = 0.0
        return "nan" if number != number else "d" + struct.pack(">d", number).hex()
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return "{" + ",".join(sorted(text(key) + ":" + canonical(item) for key, item in value.items())) + "}"


def exact(mapping, key):
    return mapping.get(key)


def c_string(value):
    return value.split("\0")[0]


def folded(mapping, key):
    """As a parser finds a member that ignores case and ends strings at a NUL: the first one."""
    for name, value in mapping.items():
        if c_string(name).casefold() == key:
            return value
    return None


def present(mapping, key, find):
    value = find(mapping, key)
    return "-" if value is None and not any(name == key for name in mapping) else canonical(value)


def reading(message, find, loose):
    method = find(message, "method")
    if loose and isinstance(method, str) and c_string(method).strip().casefold() == "tools/call":
        method = "tools/call"
    params = find(message, "params")
    called = method == "tools/call"
    fields = [canonical(method), present(message, "id", find)]
    if called and isinstance(params, dict):
        name = find(params, "name")
        if loose and isinstance(name, str):
            name = c_string(name)
        fields += [canonical(name), canonical(find(params, "arguments"))]
    elif called:
        fields += ["-", "-"]
    return " ".join(fields)


def first(pairs):
    """An object of a parser that keeps the first of two members."""
    found = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def whole(line):
    return [line]


def decoded(line):
    return [line.decode("utf-8", "replace").removeprefix("\ufeff")]


def pieces(line):
    """What a text stream makes of the line: bytes that are no UTF-8 replaced, cut where Python cuts."""
    return io.StringIO(line.decode("utf-8", "replace"), newline=None).readlines()


def lax(text):
    return json.loads(text, strict=False)


def keeping_first(text):
    return json.loads(text, object_pairs_hook=first)


# How the line is cut, how a piece is parsed, how members are found, and whether their values are
# taken as loosely as their names.
WAYS = (
    (whole, json.loads, exact, False),
    (pieces, json.loads, exact, False),
    (decoded, lax, exact, False),
    (whole, keeping_first, exact, False),
    (whole, keeping_first, folded, True),
    (whole, json.loads, folded, True),
)


def readings(line):
    found = set()
    for cut, parse, find, loose in WAYS:
        for piece in cut(line):
            try:
                value = parse(piece)
            except (ValueError, RecursionError):
                continue
            # A server that takes batches takes them apart.
            for message in value if isinstance(value, list) else [value]:
                if isinstance(message, dict):
                    found.add(reading(message, find, loose))
    return sorted(found - {NO_MESSAGE})


source, out = sys.stdin.buffer, sys.stdout
while head := source.read(4):
    line = source.read(struct.unpack(">I", head)[0])
    out.write("\t".join(readings(line)) + "\n")
