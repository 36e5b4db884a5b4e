"""The image that ours are built on where no registry serves one: Debian 12 and its Python 3.11, by debootstrap."""

import os
import shutil

from harness import buildah
from harness.cache import cache_folder, content_key
from harness.commands import PRIVATE, run
from harness.progress import step

NAME = "localhost/python-base:bookworm"
_PACKAGES = "ca-certificates,python3,python3-venv"
_SUITE = "bookworm"
_DOCKERFILE = """\
FROM scratch
ADD base.tar /
ENV LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LABEL io.qwenvl.harness.key={key}
"""


def mirror() -> list[str]:
    """The mirror that somebody names, else debootstrap's own."""
    named = os.environ.get("QWENVL_DEBIAN_MIRROR")
    return [named] if named else []


def key() -> str:
    return content_key(_SUITE, _PACKAGES, _DOCKERFILE, *mirror())


def ensure() -> None:
    """Have it in the image storage."""
    if buildah.label(NAME, "io.qwenvl.harness.key") == key():
        return
    folder = cache_folder() / "base"
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    root.mkdir(parents=True)
    with step("Making the base image with debootstrap", "1 min"):
        run(*PRIVATE, "debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, root, *mirror())
        for leftover in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
            shutil.rmtree(root / leftover)
            (root / leftover).mkdir()
        run("tar", "--create", f"--file={folder / 'base.tar'}", f"--directory={root}", ".")
        shutil.rmtree(root)
        (folder / "Dockerfile").write_text(_DOCKERFILE.format(key=key()))
        buildah.build(NAME, folder / "Dockerfile", folder)
        shutil.rmtree(folder)
