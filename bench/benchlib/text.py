"""Real prose without shipping any: the docstrings of Python's own standard library.

Deterministic for one Python version, and of a size that no fixture file should have. The same text goes to
every engine of a run, which is all that a comparison needs.
"""

import ast
import sysconfig
from functools import cache
from pathlib import Path

MODULES = [
    "argparse", "bisect", "calendar", "collections/__init__", "configparser", "contextlib", "copy", "csv",
    "datetime", "decimal", "difflib", "doctest", "email/message", "enum", "fractions", "functools", "heapq",
    "http/client", "http/cookiejar", "imaplib", "inspect", "ipaddress", "json/__init__", "locale",
    "logging/__init__", "mailbox", "optparse", "pathlib", "pickle", "pickletools", "pprint", "random", "shutil",
    "smtplib", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "typing",
    "unittest/case", "urllib/request", "uuid", "zipfile",
]  # fmt: skip
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


@cache
def prose():
    """All docstrings of at least a few sentences, in source order, an empty line between two."""
    library = Path(sysconfig.get_path("stdlib"))
    parts = []
    for module in MODULES:
        file = library / f"{module}.py"
        if not file.exists():
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, DOCUMENTED))
        parts += [text for text in docstrings if text and len(text) > 200]
    return "\n\n".join(parts)


def words(start, count):
    """`count` words of the prose from word `start` on, as one paragraph."""
    return " ".join(prose().split()[start : start + count])
