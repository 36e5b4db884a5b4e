"""Files of the repository that are made of the models: written, or with `--check` only compared."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def publish(files: Mapping[Path, str], arguments: Sequence[str]) -> None:
    """Write the texts to their files, relative to the root of the repository; ends the process if it cannot."""
    for file, text in files.items():
        if not file.parent.is_dir():
            sys.exit(f"{file.parent} does not exist here: run this in the root of the repository")
        if "--check" not in arguments:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            sys.exit(f"{file} is not what the code makes of it: run `make generate`, and read the difference")
