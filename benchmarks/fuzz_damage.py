"""Ways to damage plain data, bytes and files, for fuzz.py."""

import json
import os
import shutil
import sys
from pathlib import Path
from random import Random
from typing import Any

from mmjax import registry

JUNK = [None, True, False, -1, 0, 1, 2, 3, 7, 0.5, -0.5, 1e-9, 1e39, float("nan"), float("inf"), 2**31, 2**63,
        10**400, 10**5_000, "", " ", "x:y", "none", "../..", "/dev/null", "a\nb", "\x1b[31m", "\ud800", "\0", "1e9",
        "é" * 300, [], [[]], [None], [-1], ["a", 1], {}, {"kind": 5}, {"kind": []}, {"": None},
        {"a": {"b": {"c": 1}}}]  # fmt: skip
NAMES = ["-loss", "loss", "scenes/all", "reconstruction/psnr", "cosine", "linear", "confidence", "halton", "hinge",
         "r1", "image", "text", "question", "reference", "xla", "matmul", "native", "float32", "bfloat16", "dots",
         *(
             name for table in ("model", "loss", "source", "evaluator", "optimizer", "sampler")
             for name in registry.table(table))]  # fmt: skip
LARGE = [1_000, 10**5, 10**6, 10**9, 10**12, [10**6], [10**12]]
WORDS = ["", "0", "-1", "1", "2", "3", "0.5", "nan", "inf", "-inf", "1e39", "1e-44", "9" * 25, "9" * 5_000, "true",
         "x", "a,b", "[1,2]", "{a=1}", "(", "\x1b[31m", "a\nb", "é", "/dev/null", "/dev/zero", "/proc", "/proc/a/b",
         "~", "~x", ".", "..", "a\0b", "s3://b/c", "gs://", "*", "--", "-"]  # fmt: skip


def damage_tree(draw: Random, tree: Any, junk: list[Any]) -> str:
    """Changes one place of nested plain data; returns what was done."""
    node, name = tree, ""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw.choice(keys) if keys else None
        inner = node[key] if keys else None
        if isinstance(inner, (dict, list)) and inner and draw.random() < 0.85:
            node, name = inner, f"{name}.{key}"
            continue
        break
    how = draw.choice(("like", "like", "like", "like", "junk", "junk", "delete", "add", "wrap"))
    if key is None or how == "add":
        key = draw.choice(["x", "kind", "path", "config", "", "a\nb", "weight", "name"])
        value = draw.choice(junk)
        node.insert(0, value) if isinstance(node, list) else node.update({key: value})
        return f"{name}.{key} added: {shown(value)}"
    if how == "delete":
        del node[key]
        return f"{name}.{key} deleted"
    if how == "like":
        node[key] = like(draw, inner)
    else:
        node[key] = [inner] if how == "wrap" else draw.choice(junk)
    return f"{name}.{key}: {shown(node[key])}"


def like(draw: Random, value: Any) -> Any:
    """Another value of the same type, mostly."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice((0, 1, 2, 3, 5, 8, 16, 64, -1, value - 1, value + 1, 2 * value))
    if isinstance(value, float):
        return draw.choice((0.0, 1e-9, 0.5, 1.0, 2.0, -value, 10 * value, 1e30, 1))
    if isinstance(value, str):
        return draw.choice([*NAMES, "", value.upper(), f"{value} {value}", f"./{value}"])
    if isinstance(value, list):
        return draw.choice(([], value[:-1], value[::-1], [*value, *value], value[:1], [*value, 3], [*value, "x"]))
    return {f"{name}": inner for name, inner in list(value.items())[:-1]} if isinstance(value, dict) else [value]


def shown(value: Any) -> str:
    try:
        return repr(value)[:60]
    except ValueError:  # more digits than Python prints
        return "10**5000"


def as_json(tree: Any) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(tree).encode()
    finally:
        sys.set_int_max_str_digits(limit)


def damage_bytes(draw: Random, content: bytes) -> tuple[bytes, str]:
    """Other bytes, and what was done."""
    place = draw.randrange(len(content) + 1)
    some = draw.randbytes(draw.choice((1, 4, 100)))
    return draw.choice((
        (b"", "empty"),
        (content[:place], f"cut off at {place}"),
        (content[:place] + some + content[place + len(some) :], f"{len(some)} bytes at {place}"),
        (content[:place] + some + content[place:], f"{len(some)} bytes more at {place}"),
        (content[:place] + content[place + len(some) :], f"{len(some)} bytes less at {place}"),
        (content + content, "twice"),
        (draw.randbytes(1_000), "noise"),
        (b"\0" * 5_000, "zeros"),
        (b"[" * 100_000, "nested"),
        (b"9" * 5_000, "5,000 digits"),
        (b"\xff\xfe" + content[:1_000].decode("latin-1").encode("utf-16-le"), "UTF-16"),
        (b"\xef\xbb\xbf" + content, "byte order mark"),
        (content.replace(b"\n", b"\r"), "other line ends"),
        (content.replace(b"1", b"1" * 400), "long numbers"),
        (content.replace(b"a", "\u2028\x1b".encode()), "control characters"),
    ))  # fmt: skip


def damage_json(draw: Random, path: Path, junk: list[Any]) -> str:
    """Damages a JSON file, or one of JSON Lines, mostly so that it stays one."""
    if draw.random() < 0.3:
        return damage_content(draw, path)
    lines = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    line = draw.randrange(len(lines))
    tree = json.loads(lines[line])
    if draw.random() < 0.1:
        tree, told = draw.choice(junk), "another value"
    else:
        told = damage_tree(draw, tree, junk)
    lines[line] = as_json(tree)
    path.write_bytes(b"\n".join(lines))
    return told


def damage_content(draw: Random, path: Path) -> str:
    content, told = damage_bytes(draw, path.read_bytes())
    path.write_bytes(content)
    return told


def damage_file(draw: Random, path: Path) -> str:
    """Puts something else in the place of a file or folder."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    how = draw.choice(("missing", "FIFO", "folder", "loop", "device", "dangling", "sparse"))
    if how == "FIFO":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "sparse":
        with path.open("wb") as file:
            file.truncate(6 << 30)
    elif how != "missing":
        path.symlink_to({"loop": path, "device": "/dev/zero", "dangling": "/nonexistent"}[how])
    return how


def damage(draw: Random, path: Path, junk: list[Any] = JUNK) -> str:
    """Damages a file in any way."""
    if draw.random() < 0.15:
        told = damage_file(draw, path)
    elif path.suffix in (".json", ".jsonl") and path.stat().st_size:
        told = damage_json(draw, path, junk)
    elif path.suffix == ".safetensors" and draw.random() < 0.7:
        told = damage_header(draw, path, junk)
    else:
        told = damage_content(draw, path)
    return f"{path.name}: {told}"


def damage_header(draw: Random, path: Path, junk: list[Any]) -> str:
    """Damages the JSON of a safetensors file, whose length stands before it."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    tree = json.loads(content[8:end])
    told = damage_tree(draw, tree, [*junk, "I8", "F64", "BF16", "F8_E4M3", [16, 16], [0, 4]])
    header = as_json(tree)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    return f"header{told}"


def copied(made: Path, folder: Path) -> Path:
    return Path(shutil.copytree(made, folder / made.name, symlinks=True))


def some_file(draw: Random, folder: Path, *patterns: str) -> Path:
    return draw.choice(sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}))
