#!/usr/bin/env python3
"""Write a GGUF with random weights in the shape of a mixture of experts, with fewer layers than the real one.

    python3 bench/models/random_mixture.py --shape qwen3-30b-a3b --tokenizer smollm2.gguf --out mixture.gguf

For speed only, as random_model.py. The router is random too, so rows that differ are spread about evenly over the
experts, which is what real routers are trained for. Needs only Python's standard library.
"""

import argparse
import math
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path

from random_model import QUANTS, Metadata, float32, padded, random_blocks, string, text, uint32

F32, MXFP4 = 0, 39
MXFP4_BLOCK, MXFP4_BYTES = 32, 17
# Root mean square of the sixteen values of an MXFP4 weight with scale 1.
MXFP4_DEVIATION = math.sqrt(sum(v * v for v in (0, 1, 2, 3, 4, 6, 8, 12)) / 8)


@dataclass(frozen=True)
class Tensor:
    name: str
    dims: tuple
    kind: str

    def count(self):
        return math.prod(self.dims)

    def type_and_bytes(self):
        if self.kind == "F32":
            return F32, 4 * self.count()
        if self.kind == "MXFP4":
            return MXFP4, self.count() // MXFP4_BLOCK * MXFP4_BYTES
        quant = QUANTS[self.kind]
        return quant.type_id, self.count() // quant.block_len * quant.block_bytes

    def data(self, rng):
        columns, rows = self.dims[0], self.count() // self.dims[0]
        if self.kind == "MXFP4":
            return mxfp4(rng, columns, rows)
        if self.kind != "F32":
            # A row's own embedding outweighs what attention adds, which all rows of a context share; otherwise they would
            # all go to the same experts.
            if self.name == "token_embd.weight":
                columns, rows = 1, self.count()
            elif "attn_output" in self.name:
                columns, rows = 16 * columns, rows // 16
            blocks = random_blocks(rng, QUANTS[self.kind], columns, rows)
            return centred(blocks) if self.kind == "Q4_0" else blocks
        norm = self.name.endswith("norm.weight")
        centre, spread = (1.0, 0.05) if norm else (0.0, 0.1 if len(self.dims) == 1 else 1 / math.sqrt(columns))
        return struct.pack(f"<{self.count()}f", *(rng.gauss(centre, spread) for _ in range(self.count())))


def centred(blocks):
    """Q4_0 blocks without the code 0: the other fifteen have a mean of zero.

    With a mean that is not, every matrix moves all rows in one direction, and soon they all go to the same experts.
    """
    size = QUANTS["Q4_0"].block_bytes
    nibbles = [code or 8 for code in range(16)]
    out = bytearray(blocks.translate(bytes(nibbles[b >> 4] << 4 | nibbles[b & 15] for b in range(256))))
    for scale in (0, 1):
        out[scale::size] = blocks[scale::size]
    return bytes(out)


def mxfp4(rng, columns, rows):
    count = rows * columns // MXFP4_BLOCK
    blocks = bytearray(rng.randbytes(count * MXFP4_BYTES))
    # The stored exponent is of twice the scale.
    exponent = 128 + round(math.log2(1 / (MXFP4_DEVIATION * math.sqrt(columns))))
    blocks[::MXFP4_BYTES] = bytes([exponent]) * count
    return bytes(blocks)


@dataclass(frozen=True)
class Mixture:
    """What differs between the shapes; `numbers`, `floats` and `flags` are metadata below the architecture."""

    arch: str
    layers: int
    width: int
    experts: int
    expert_width: int
    numbers: dict
    kind: str = "Q4_0"
    expert_kind: str = "Q4_0"
    floats: dict = field(default_factory=dict)
    flags: dict = field(default_factory=dict)

    def tensors(self, vocab):
        yield Tensor("token_embd.weight", (self.width, vocab), self.kind)
        yield Tensor("output.weight", (self.width, vocab), self.kind)
        yield Tensor("output_norm.weight", (self.width,), "F32")
        for layer in range(self.layers):
            for name, dims, kind in self.of_layer(layer):
                yield Tensor(f"blk.{layer}.{name}", dims, kind)

    def of_layer(self, layer):
        yield "attn_norm.weight", (self.width,), "F32"
        attention = {"qwen3moe": self.qwen3, "gpt-oss": self.gpt_oss, "deepseek2": self.latent}
        yield from attention[self.arch]()
        if layer < self.numbers.get("leading_dense_block_count", 0):
            yield from self.gated("", self.numbers["feed_forward_length"])
            return
        yield "ffn_gate_inp.weight", (self.width, self.experts), "F32"
        for part, (columns, rows) in self.projections(self.expert_width):
            yield f"ffn_{part}_exps.weight", (columns, rows, self.experts), self.expert_kind
            if self.arch == "gpt-oss":
                yield f"ffn_{part}_exps.bias", (rows, self.experts), "F32"
        if self.arch == "gpt-oss":
            yield "ffn_gate_inp.bias", (self.experts,), "F32"
        if "expert_shared_count" in self.numbers:
            yield from self.gated("_shexp", self.expert_width * self.numbers["expert_shared_count"])

    def projections(self, width):
        yield "gate", (self.width, width)
        yield "up", (self.width, width)
        yield "down", (width, self.width)

    def gated(self, suffix, width):
        for part, dims in self.projections(width):
            yield f"ffn_{part}{suffix}.weight", dims, self.kind

    def heads(self):
        dim = self.numbers["attention.key_length"]
        queries, keys = (self.numbers[f"attention.head_count{kv}"] * dim for kv in ("", "_kv"))
        for part, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"attn_{part}", (self.width, rows)
        yield "attn_output", (queries, self.width)

    def qwen3(self):
        for name, dims in self.heads():
            yield f"{name}.weight", dims, self.kind
        for part in "qk":
            yield f"attn_{part}_norm.weight", (self.numbers["attention.key_length"],), "F32"
        yield "ffn_norm.weight", (self.width,), "F32"

    def gpt_oss(self):
        for name, dims in self.heads():
            yield f"{name}.weight", dims, self.kind
            yield f"{name}.bias", dims[1:], "F32"
        yield "attn_sinks.weight", (self.numbers["attention.head_count"],), "F32"
        yield "post_attention_norm.weight", (self.width,), "F32"

    def latent(self):
        heads, rank = self.numbers["attention.head_count"], self.numbers["attention.kv_lora_rank"]
        rope, key = self.numbers["rope.dimension_count"], self.numbers["attention.key_length_mla"]
        value = self.numbers["attention.value_length_mla"]
        yield "attn_q.weight", (self.width, heads * key), self.kind
        yield "attn_kv_a_mqa.weight", (self.width, rank + rope), self.kind
        yield "attn_kv_a_norm.weight", (rank,), "F32"
        yield "attn_k_b.weight", (key - rope, rank, heads), self.kind
        yield "attn_v_b.weight", (rank, value, heads), self.kind
        yield "attn_output.weight", (heads * value, self.width), self.kind
        yield "ffn_norm.weight", (self.width,), "F32"

    def metadata(self, vocab):
        numbers = self.numbers | {
            "block_count": self.layers,
            "context_length": 32768,
            "embedding_length": self.width,
            "vocab_size": vocab,
            "expert_count": self.experts,
            "expert_feed_forward_length": self.expert_width,
        }
        yield string("general.architecture", self.arch)
        yield string("general.name", f"random {self.arch} of {self.layers} layers")
        yield uint32("general.file_type", QUANTS[self.kind].file_type)
        yield uint32("general.quantization_version", 2)
        yield from (uint32(f"{self.arch}.{key}", value) for key, value in numbers.items())
        yield from (float32(f"{self.arch}.{key}", value) for key, value in self.floats.items())
        yield from (flag(f"{self.arch}.{key}", value) for key, value in self.flags.items())


def flag(key, value):
    return text(key) + struct.pack("<I?", 7, value)


def heads(count, kv, dim):
    lengths = {"attention.key_length": dim, "attention.value_length": dim, "rope.dimension_count": dim}
    return {"attention.head_count": count, "attention.head_count_kv": kv} | lengths


EPSILON = {"attention.layer_norm_rms_epsilon": 1e-6}
SHAPES = {
    "deepseek-v2-lite": Mixture(
        arch="deepseek2",
        layers=10,
        width=2048,
        experts=64,
        expert_width=1408,
        numbers=heads(16, 1, 576)
        | {
            "attention.value_length": 512,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
            "attention.kv_lora_rank": 512,
            # None; llama.cpp wants the key where the number of layers is not V2-Lite's.
            "attention.q_lora_rank": 0,
            "rope.dimension_count": 64,
            "feed_forward_length": 10944,
            "leading_dense_block_count": 1,
            "expert_used_count": 6,
            "expert_shared_count": 2,
            "expert_gating_func": 1,
        },
        floats=EPSILON | {"rope.freq_base": 1e4, "expert_weights_scale": 1.0},
        flags={"expert_weights_norm": False},
    ),
    "qwen3-30b-a3b": Mixture(
        arch="qwen3moe",
        layers=8,
        width=2048,
        experts=128,
        expert_width=768,
        numbers=heads(32, 4, 128) | {"feed_forward_length": 6144, "expert_used_count": 8},
        floats=EPSILON | {"rope.freq_base": 1e6},
    ),
    "gpt-oss-20b": Mixture(
        arch="gpt-oss",
        layers=6,
        width=2880,
        experts=32,
        expert_width=2880,
        numbers=heads(64, 8, 64)
        | {"feed_forward_length": 2880, "expert_used_count": 4, "attention.sliding_window": 128},
        kind="Q8_0",
        expert_kind="MXFP4",
        floats=EPSILON | {"rope.freq_base": 150000.0},
    ),
}


def write(path, shape, tokenizer, seed):
    vocab = tokenizer.array_len["tokenizer.ggml.tokens"]
    copied = [raw for key, raw in tokenizer.pairs.items() if key.startswith("tokenizer.")]
    pairs = [*shape.metadata(vocab), *copied]
    infos, offset, tensors = [], 0, list(shape.tensors(vocab))
    for tensor in tensors:
        (kind, size), dims = tensor.type_and_bytes(), tensor.dims
        infos.append(text(tensor.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        offset += size + padded(size)
    rng = random.Random(seed)
    with path.open("wb") as out:
        header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join([*pairs, *infos])
        out.write(header + bytes(padded(len(header))))
        for tensor in tensors:
            data = tensor.data(rng)
            out.write(data + bytes(padded(len(data))))


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--shape", choices=SHAPES, required=True)
    options.add_argument("--tokenizer", type=Path, required=True, help="GGUF whose tokenizer is copied")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seed", type=int, default=1)
    o = options.parse_args()
    write(o.out, SHAPES[o.shape], Metadata(o.tokenizer), o.seed)
    print(f"{o.out}: {o.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
