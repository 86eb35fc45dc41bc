"""Damage to files, drawn from a seed: of bytes, of text, and of the structure that a format has inside."""

import gzip
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

DEEP = 100_000
"""Nested brackets: beyond what Python's parsers recurse into."""
_NUMBERS = (
    *("nan", "inf", "-inf", "NaN", "-1", "0", "-0", "1e308", "1e-320", "-1e30", "0.5", "1e400", "0x10", "1_0", "٣"),
    *("2147483648", "4294967296", "9223372036854775808", "18446744073709551615", "9" * 400, "", "abc", "None", "1,5"),
)
"""What a number in a text is replaced by."""
_VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, "", "nan", "../../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, "\ud800", "é\n"),
    *(float("nan"), float("inf"), -1, 0, 0.5, 1e308, 1e-320, 2**31, 2**63, 2**64, 10**400, [[]], [None], {"a": []}),
    *([[1, 2], [3]], [0] * 16, {"x": 1, "y": 2, "z": 3}),
)
"""What a value in JSON is replaced by."""
_INTEGERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1)
_MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x1f\x8b\x08", b"\x80\x02")
_MAGICS += (b"v/1\x01", b"Pf\n", b"glTF", b"\x00" * 16, b"\xff" * 16, b"{", b"\xef\xbb\xbf", b"<?xml")
_TOKEN = re.compile(r"[^\s,:\[\]{}\"]+")
_HEADER_WORD = re.compile(rb"[!-~]+")
_HEADER = 300
"""Bytes of a file's beginning that may be text."""

Damage = Callable[[bytes, random.Random], bytes]


def damaged(content: bytes, kind: str, draw: random.Random) -> bytes:
    """One to three pieces of damage of a kind of file; one case in four is damage to its bytes whatever it is."""
    own = _OF_KIND[kind]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        damage = of_bytes if draw.random() < 0.25 else draw.choice(own)
        try:
            content = damage(content, draw)
        except Exception:
            content = of_bytes(content, draw)  # what an earlier piece left has no such structure, in whatever way
    return content


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """Cut off, turned over, overwritten, repeated, mixed with something else."""
    size = len(content)
    at = draw.randrange(size + 1)
    run = draw.choice((1, 2, 4, 8, 64, max(1, size // 4)))
    ways = (
        lambda: content[:at],
        lambda: b"",
        lambda: (
            content[:at] + bytes(one ^ (1 << draw.randrange(8)) for one in content[at : at + 1]) + content[at + 1 :]
        ),
        lambda: content[:at] + draw.choice((b"\xff", b"\0", b"\x80", b"\x7f")) * run + content[at + run :],
        lambda: content[:at] + draw.randbytes(run) + content[at:],
        lambda: content[:at] + content[at + run :],
        lambda: content[:at] + content[at : at + run] * draw.choice((2, 50)) + content[at + run :],
        lambda: draw.choice(_MAGICS) + content[at:],
        lambda: content + draw.randbytes(run),
        lambda: _with_integer(content, draw),
    )
    return draw.choice(ways)()


def _with_integer(content: bytes, draw: random.Random) -> bytes:
    """A count or a size somewhere, mostly near the beginning, where headers are."""
    form = draw.choice(("<I", "<Q", ">I"))
    number = draw.choice(_INTEGERS) % 2 ** (8 * struct.calcsize(form))
    limit = max(1, len(content) - 8)
    at = draw.randrange(min(limit, 64) if draw.random() < 0.7 else limit)
    return content[:at] + struct.pack(form, number) + content[at + struct.calcsize(form) :]


def of_words(content: bytes, draw: random.Random) -> bytes:
    """A word of a text becomes another number, or none."""
    text = content.decode("utf-8")
    words = list(_TOKEN.finditer(text))
    word = draw.choice(words)
    other = draw.choice(words)[0] if draw.random() < 0.2 else draw.choice(_NUMBERS)
    return (text[: word.start()] + other + text[word.end() :]).encode()


def of_lines(content: bytes, draw: random.Random) -> bytes:
    """A line is gone, twice there, cut off, in another place, very long."""
    lines = content.decode("utf-8").split("\n")
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    ways = (
        lambda: lines[:at] + lines[at + 1 :],
        lambda: lines[:at] + [lines[at]] * draw.choice((2, 20)) + lines[at + 1 :],
        lambda: [*lines[:at], lines[at][: draw.randrange(len(lines[at]) + 1)], *lines[at + 1 :]],
        lambda: [*lines[:at], lines[other], *lines[at + 1 :]],
        lambda: [*lines[:at], lines[at] + " 7" * 10_000, *lines[at + 1 :]],
    )
    return "\n".join(draw.choice(ways)()).encode()


def of_json(content: bytes, draw: random.Random) -> bytes:
    """A value anywhere in a document becomes another, is gone, is twice there; or brackets without end."""
    if draw.random() < 0.04:
        return draw.choice((b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP))
    document = json.loads(content)
    holders = list(_holders(document))
    holder, key = draw.choice(holders)
    way = draw.random()
    if way < 0.15:
        del holder[key]
    elif way < 0.25 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif way < 0.32:
        return _with_deep_value(document, holder, key)
    elif way < 0.4 and isinstance(holder, dict):
        holder[draw.choice(("x", "", "__class__", str(key).upper()))] = holder.pop(key)
    else:
        holder[key] = draw.choice(_VALUES)
    return json.dumps(document).encode("utf-8")


def _with_deep_value(document: Any, holder: Any, key: Any) -> bytes:
    holder[key] = "deep value here"
    return json.dumps(document).replace('"deep value here"', "[" * DEEP + "]" * DEEP).encode()


def _holders(document: Any) -> list[tuple[Any, Any]]:
    """All places in a document, as (list or dict, index or key); of long lists the first few entries."""
    found: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else list(range(min(len(one), 24))) if isinstance(one, list) else []
        found += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    return found or [([document], 0)]


def of_json_lines(content: bytes, draw: random.Random) -> bytes:
    """As `of_json`, of one line."""
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = of_json(lines[at], draw)
    return b"\n".join(lines) + b"\n"


def of_png(content: bytes, draw: random.Random) -> bytes:
    """Another size, depth, color type or interlacing in a header whose checksum is right."""
    header = bytearray(content[16:29])
    field = draw.choice(("width", "height", "other", "both"))
    sizes = (0, 1, 2, 20_000, 65_535, 2**31 - 1, 2**32 - 1)
    if field in ("width", "both"):
        header[0:4] = struct.pack(">I", draw.choice(sizes))
    if field in ("height", "both"):
        header[4:8] = struct.pack(">I", draw.choice(sizes))
    if field == "other":
        header[draw.randrange(8, 13)] = draw.randrange(20)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + bytes(header)))
    return content[:16] + bytes(header) + checksum + content[33:]


def of_header(content: bytes, draw: random.Random) -> bytes:
    """A number, or a word, in the text at the beginning of a file that goes on in bytes."""
    words = list(_HEADER_WORD.finditer(content[:_HEADER]))
    word = draw.choice(words)
    other = draw.choice(words)[0] if draw.random() < 0.3 else draw.choice(_NUMBERS).encode()
    return content[: word.start()] + other + content[word.end() :]


def of_npy(content: bytes, draw: random.Random) -> bytes:
    """Another shape or type in the header of an array."""
    version = np.lib.format.read_magic(io.BytesIO(content))
    start = 10 if version == (1, 0) else 12
    size = int.from_bytes(content[8:start], "little")
    header = content[start : start + size].decode("latin1")
    shapes = ("(4611686018427387904,)", "(1099511627776, 3)", "(-1, 4)", "()", "(0,)", "(1, 2, 3)", "(2147483648,)")
    types = ("'|O'", "'<f8'", "'<U8'", "'|S3'", "'<c16'", "'|V4096'", "[('a', '<f4')]", "'M8[s]'", "'|b1'", "'<i8'")
    if draw.random() < 0.5:
        header = re.sub(r"'shape': \([^)]*\)", f"'shape': {draw.choice(shapes)}", header)
    elif draw.random() < 0.8:
        header = re.sub(r"'descr': '[^']*'", f"'descr': {draw.choice(types)}", header)
    else:
        header = draw.choice(("__import__('os')", "{" * 5000, header.replace("False", "True"), "{}", "1" * 5000))
    coded = header.rstrip().encode("latin1") + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(coded)) + coded + content[start + size :]


def of_zip(content: bytes, draw: random.Random) -> bytes:
    """A member of an archive is damaged, gone, huge when unpacked, or named like a file elsewhere."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(members))
    way = draw.random()
    if way < 0.45 and name.endswith(".npy"):
        members[name] = of_npy(members[name], draw)
    elif way < 0.65:
        members[name] = of_bytes(members[name], draw)
    elif way < 0.75:
        del members[name]
    elif way < 0.85:
        members[draw.choice(("../../escaped.npy", "/tmp/escaped.npy", name.upper()))] = members.pop(name)
    else:
        members[name] = members[name] + bytes(2**26)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for one, data in members.items():
            archive.writestr(one, data)
    return out.getvalue()


def of_gzip_json(content: bytes, draw: random.Random) -> bytes:
    """As `of_json`, of what is compressed; or one that is much larger unpacked."""
    if draw.random() < 0.05:
        return gzip.compress(b"{", mtime=0) + gzip.compress(b" " * 2**24, 1, mtime=0) * 96
    with gzip.open(io.BytesIO(content)) as file:
        whole = file.read(2**22)  # an earlier piece of damage may have made it large
    return gzip.compress(of_json(whole, draw), 1, mtime=0)


def of_safetensors(content: bytes, draw: random.Random) -> bytes:
    """Another header: its length, its JSON, offsets and shapes."""
    size = struct.unpack("<Q", content[:8])[0]
    if draw.random() < 0.2:
        return struct.pack("<Q", draw.choice((2**60, 2**64 - 1, 2**31, 0, 1, size + 1))) + content[8:]
    header = of_json(content[8 : 8 + size], draw)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def of_exr(content: bytes, draw: random.Random) -> bytes:
    """Another window of data or display, up to 2^31 pixels wide."""
    name = draw.choice((b"dataWindow\0box2i\0", b"displayWindow\0box2i\0"))
    at = content.index(name) + len(name) + 4
    corners = [draw.choice((-(2**31), -1, 0, 1, 7, 40_000, 2**30, 2**31 - 1)) for _ in range(4)]
    return content[:at] + struct.pack("<4i", *corners) + content[at + 16 :]


_OF_KIND: dict[str, tuple[Damage, ...]] = {
    "bytes": (of_bytes,),
    "text": (of_words, of_words, of_words, of_lines),
    "json": (of_json, of_json, of_json, of_words),
    "json_lines": (of_json_lines, of_json_lines, of_lines),
    "header": (of_header, of_header, of_bytes),
    "png": (of_png, of_bytes),
    "npy": (of_npy, of_bytes),
    "zip": (of_zip, of_zip, of_bytes),
    "gzip_json": (of_gzip_json, of_gzip_json, of_bytes),
    "safetensors": (of_safetensors, of_safetensors, of_bytes),
    "exr": (of_exr, of_bytes),
}
KINDS = tuple(_OF_KIND)
