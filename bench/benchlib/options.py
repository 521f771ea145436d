"""Options that several bench commands share."""

import argparse
from pathlib import Path

from benchlib import host


def parser(description):
    options = argparse.ArgumentParser(description=description)
    options.add_argument(
        "--work", type=Path, default=host.WORK, help="folder for peers and models [default: target/bench]"
    )
    options.add_argument("--model", help="the SmolLM2-135M Q4_1 file [default: downloaded]")
    options.add_argument("--llama", help="folder with llama.cpp's programs [default: built from its package]")
    return options


def add_foretoken(options):
    options.add_argument("--foretoken", help="our binary [default: cargo build --release]")
    options.add_argument(
        "--threads", type=int, default=host.physical_cores(), help="[default: the number of physical cores]"
    )
