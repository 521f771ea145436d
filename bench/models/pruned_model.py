#!/usr/bin/env python3
"""Write a GGUF without some of its layers: a draft model for the file it was made from.

    python3 bench/models/pruned_model.py --model smollm2.gguf --drop 12-17 --out draft.gguf

Weights stay quantised as they are and nothing is trained, so the copy is a worse and faster model with the same
vocabulary. Needs only Python's standard library.
"""

import argparse
import re
import struct
from pathlib import Path

from random_model import ALIGNMENT, Metadata, padded, text, uint32


def layers(ranges):
    """The numbers in a text like `3,8-11`."""
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def tensors(source):
    """(name, dimensions, type, offset) of each tensor; leaves `source` at the end of the list."""
    (count,) = struct.unpack_from("<Q", source.data, 8)
    for _ in range(count):
        name = source.text().decode()
        (rank,) = source.take("<I")
        yield name, source.take(f"<{rank}Q"), *source.take("<IQ")


def renamed(name, new_number):
    """The tensor's name among the layers that stay, or `None`."""
    match = re.match(r"blk\.(\d+)\.", name)
    if not match:
        return name
    number = new_number.get(int(match[1]))
    return None if number is None else f"blk.{number}.{name[match.end():]}"


def write(path, model, drop):
    source = Metadata(model)
    known = list(tensors(source))
    start = source.at + -source.at % ALIGNMENT
    (count,) = (key for key in source.pairs if key.endswith(".block_count"))
    (total,) = struct.unpack("<I", source.pairs[count][-4:])
    kept = [layer for layer in range(total) if layer not in drop]
    new_number = {old: new for new, old in enumerate(kept)}
    source.pairs[count] = uint32(count, len(kept))
    data = model.read_bytes()
    ends = sorted(offset for *_, offset in known)[1:] + [len(data) - start]
    end_of = dict(zip(sorted(offset for *_, offset in known), ends, strict=True))
    infos, parts, offset = [], [], 0
    for name, dims, kind, at in known:
        name = renamed(name, new_number)
        if name is None:
            continue
        infos.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        part = data[start + at : start + end_of[at]]
        parts.append(part + bytes(padded(len(part))))
        offset += len(parts[-1])
    pairs = list(source.pairs.values())
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join([*pairs, *infos])
    path.write_bytes(header + bytes(padded(len(header))) + b"".join(parts))


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--drop", required=True, help="layers to leave out, like 3,8-11")
    options.add_argument("--out", type=Path, required=True)
    o = options.parse_args()
    write(o.out, o.model, set(layers(o.drop)))


if __name__ == "__main__":
    main()
