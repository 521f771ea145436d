#!/usr/bin/env python3
"""Write a GGUF with random weights in the shape of a real model, with a real tokenizer copied into it.

    python3 bench/models/random_model.py --tokenizer smollm2.gguf --out big.gguf

For speed only: the blocks are random bytes with scales of a sane size, so activations stay finite and no
quantiser runs. The default is the shape of Qwen2.5-1.5B in Q4_0 (780 MB), which no cache holds.
Needs only Python's standard library.
"""

import argparse
import math
import random
import struct
from dataclasses import dataclass
from pathlib import Path

ALIGNMENT = 32
UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class Quant:
    """A GGUF weight type, as far as random blocks need it.

    `deviation` is that of a weight with scale 1 when all other bits of its block are random; `scale` is the
    offset of the block's f16 scale, and `minimum` that of a second f16 which is `minimum_ratio` times it.
    """

    type_id: int
    file_type: int
    block_len: int
    block_bytes: int
    deviation: float
    scale: int = 0
    minimum: int | None = None
    minimum_ratio: float = 0.0


QUANTS = {
    "Q4_0": Quant(2, 2, 32, 18, deviation=4.61),
    "Q4_1": Quant(3, 3, 32, 20, deviation=4.61, minimum=2, minimum_ratio=-8.0),
    "Q8_0": Quant(8, 7, 32, 34, deviation=73.9),
    # Six-bit sub-scales (mean 31.5) and minima of the same size: q * sc - 8 * m.
    "Q4_K": Quant(12, 15, 256, 144, deviation=255.0, minimum=2, minimum_ratio=8.0),
    "Q6_K": Quant(14, 18, 256, 210, deviation=1365.0, scale=208),
}


@dataclass(frozen=True)
class Shape:
    arch: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int

    def tensors(self, vocab):
        """Names and GGUF dimensions (columns first); one dimension means f32."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "token_embd.weight", (self.width, vocab)
        yield "output_norm.weight", (self.width,)
        for layer in range(self.layers):
            name = f"blk.{layer}."
            yield f"{name}attn_norm.weight", (self.width,)
            yield f"{name}ffn_norm.weight", (self.width,)
            for part, rows in (("q", queries), ("k", keys), ("v", keys)):
                yield f"{name}attn_{part}.weight", (self.width, rows)
                if self.arch == "qwen2":
                    yield f"{name}attn_{part}.bias", (rows,)
            if self.arch == "qwen3":
                yield f"{name}attn_q_norm.weight", (self.head_dim,)
                yield f"{name}attn_k_norm.weight", (self.head_dim,)
            yield f"{name}attn_output.weight", (queries, self.width)
            yield f"{name}ffn_gate.weight", (self.width, self.feed_forward)
            yield f"{name}ffn_up.weight", (self.width, self.feed_forward)
            yield f"{name}ffn_down.weight", (self.feed_forward, self.width)

    def metadata(self, quant, vocab):
        number = {
            "block_count": self.layers,
            "context_length": 32768,
            "embedding_length": self.width,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "rope.dimension_count": self.head_dim,
            "vocab_size": vocab,
        }
        yield string("general.architecture", self.arch)
        yield string("general.name", f"random {self.arch}")
        yield uint32("general.file_type", quant.file_type)
        yield uint32("general.quantization_version", 2)
        yield from (uint32(f"{self.arch}.{key}", value) for key, value in number.items())
        yield float32(f"{self.arch}.attention.layer_norm_rms_epsilon", 1e-6)
        yield float32(f"{self.arch}.rope.freq_base", 1e6)


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def string(key, value):
    return text(key) + struct.pack("<I", STRING) + text(value)


def uint32(key, value):
    return text(key) + struct.pack("<II", UINT32, value)


def float32(key, value):
    return text(key) + struct.pack("<If", FLOAT32, value)


class Metadata:
    """The raw key/value pairs of an existing GGUF, to be copied byte for byte."""

    def __init__(self, path):
        self.data, self.at = path.read_bytes()[: 64 << 20], 8
        if self.data[:4] != b"GGUF":
            raise SystemExit(f"{path} is not a GGUF file")
        _tensors, pairs = self.take("<QQ")
        self.pairs, self.array_len = {}, {}
        for _ in range(pairs):
            start = self.at
            key = self.text().decode()
            (kind,) = self.take("<I")
            self.skip(kind, key)
            self.pairs[key] = self.data[start : self.at]

    def take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values

    def text(self):
        (length,) = self.take("<Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip(self, kind, key):
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            inner, count = self.take("<IQ")
            self.array_len[key] = count
            for _ in range(count):
                self.skip(inner, key)
        else:
            self.at += SCALAR_BYTES[kind]


def half(value):
    return struct.pack("<e", value)


def random_blocks(rng, quant, columns, rows):
    """Random blocks whose weights have a deviation of about 1/sqrt(columns)."""
    count = rows * columns // quant.block_len
    size, blocks = quant.block_bytes, bytearray(rng.randbytes(count * quant.block_bytes))
    # The low byte of each scale stays random: up to a quarter above `scale`, rounded down to its high byte.
    scale = 1.0 / (quant.deviation * math.sqrt(columns))
    blocks[quant.scale + 1 :: size] = half(scale)[1:] * count
    if quant.minimum is not None:
        # A power of two times the scale has the same low byte, so the minimum centres each block exactly.
        blocks[quant.minimum :: size] = blocks[quant.scale :: size]
        blocks[quant.minimum + 1 :: size] = half(scale * quant.minimum_ratio)[1:] * count
    return bytes(blocks)


def vector(rng, name, length):
    centre, spread = (0.0, 0.1) if name.endswith(".bias") else (1.0, 0.05)
    return struct.pack(f"<{length}f", *(rng.gauss(centre, spread) for _ in range(length)))


def padded(size):
    return -size % ALIGNMENT


def write(path, shape, quant, tokenizer, seed):
    vocab = tokenizer.array_len["tokenizer.ggml.tokens"]
    copied = [raw for key, raw in tokenizer.pairs.items() if key.startswith("tokenizer.")]
    pairs = [*shape.metadata(quant, vocab), *copied]
    infos, offset, tensors = [], 0, list(shape.tensors(vocab))
    for name, dims in tensors:
        if dims[0] % quant.block_len and len(dims) == 2:
            raise SystemExit(f"{name}: {dims[0]} columns are not a multiple of {quant.block_len}")
        kind, size = 0, 4 * dims[0]
        if len(dims) == 2:
            kind, size = quant.type_id, dims[0] * dims[1] // quant.block_len * quant.block_bytes
        infos.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        offset += size + padded(size)

    rng = random.Random(seed)
    with path.open("wb") as out:
        header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join([*pairs, *infos])
        out.write(header + bytes(padded(len(header))))
        for name, dims in tensors:
            data = random_blocks(rng, quant, *dims) if len(dims) == 2 else vector(rng, name, *dims)
            out.write(data + bytes(padded(len(data))))


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--tokenizer", type=Path, required=True, help="GGUF whose tokenizer is copied")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--arch", choices=["llama", "qwen2", "qwen3"], default="qwen2")
    options.add_argument("--type", choices=QUANTS, default="Q4_0")
    options.add_argument("--layers", type=int, default=28)
    options.add_argument("--width", type=int, default=1536)
    options.add_argument("--feed-forward", type=int, default=8960)
    options.add_argument("--heads", type=int, default=12)
    options.add_argument("--kv-heads", type=int, default=2)
    options.add_argument("--head-dim", type=int, default=128)
    options.add_argument("--seed", type=int, default=1)
    o = options.parse_args()
    shape = Shape(o.arch, o.layers, o.width, o.feed_forward, o.heads, o.kv_heads, o.head_dim)
    write(o.out, shape, QUANTS[o.type], Metadata(o.tokenizer), o.seed)
    print(f"{o.out}: {o.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
