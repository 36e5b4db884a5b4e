"""Writes the files of the repository that are made of the models."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def publish(files: Mapping[Path, str]) -> None:
    """Write the texts to their files, relative to the root of the repository; ends the process where that is not."""
    for file, text in files.items():
        if not file.parent.is_dir():
            sys.exit(f"{file.parent} does not exist here: run this in the root of the repository")
        file.write_text(text)
