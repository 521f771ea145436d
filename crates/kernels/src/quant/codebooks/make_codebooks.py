"""Writes the codebooks of the IQ types, as the `gguf` Python package has them, into this folder.

One text file per type: comment lines, then 4 hexadecimal digits per vector. A vector's magnitudes are written as indices
into the type's list of magnitudes, 2 bits each for vectors of 8 and 3 bits for vectors of 4, the first in the lowest
bits. Run it with a Python that has `gguf` and `numpy`; the output is committed.
"""

import importlib.metadata
import pathlib

import gguf.quants

for name in ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"]:
    cls = getattr(gguf.quants, name)
    cls.init_grid()
    count, length = cls.grid_shape
    bits = 16 // length if length == 8 else 3
    index = {value: i for i, value in enumerate(cls.grid_map)}
    words = []
    for vector in cls.grid.reshape(count, length):
        words.append(sum(index[int(value)] << (bits * k) for k, value in enumerate(vector)))
    lines = [
        f"# The codebook of {name}: {count} vectors of {length} magnitudes out of {', '.join(map(str, cls.grid_map))}.",
        f"# From the Python package gguf {importlib.metadata.version('gguf')} (ggml project, MIT licence), gguf/quants.py, `{name}.grid_hex`;",
        "# the same table as in ggml's ggml-common.h. Written by make_codebooks.py, which says what the digits mean.",
    ]
    for at in range(0, count, 16):
        lines.append(" ".join(f"{word:04x}" for word in words[at : at + 16]))
    path = pathlib.Path(__file__).with_name(f"{name.lower()}.txt")
    path.write_text("\n".join(lines) + "\n")
