"""The project's images: built from its Dockerfiles, and brought to the store that nodes are cloned from."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from harness import base_image, buildah, containerd, preflight, tools
from harness.cache import REPOSITORY, cache_folder, content_key, files_key, locked
from harness.node import Node
from harness.progress import step

_WHEEL_SOURCES = tuple(REPOSITORY / name for name in ("pyproject.toml", "uv.lock", "README.md", "operator", "runtime"))


@dataclass(frozen=True)
class Image:
    """One image: `usually` is how long a first build takes and how long one takes in which only our code is new."""

    name: str
    dockerfile: Path
    usually: str
    target: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    context: Path = REPOSITORY
    sources: tuple[Path, ...] = _WHEEL_SOURCES
    base: "Image | None" = None
    """The image of ours that it is built on; None where that is Python's."""

    @property
    def slug(self) -> str:
        return self.name.rpartition("/")[2].replace(":", "-")

    def key(self) -> str:
        below = base_image.key() if self.base is None else self.base.key()
        return content_key(files_key([self.dockerfile, *self.sources], REPOSITORY), self.target, below)


_ON_PYTHON = {"PYTHON_IMAGE": base_image.NAME}
OPERATOR = Image(
    name="localhost/qwenvl-operator:dev",
    dockerfile=REPOSITORY / "Dockerfile.operator",
    usually="15 s, the first time 1 min",
    arguments=_ON_PYTHON,
)
RUNTIME_CPU = Image(
    name="localhost/qwenvl-runtime:cpu-dev",
    dockerfile=REPOSITORY / "Dockerfile.runtime",
    usually="20 s, the first time 7 min",
    target="cpu",
    arguments=_ON_PYTHON,
)
_FAKE_ENGINE = REPOSITORY / "tests" / "harness" / "fake_engine"
RUNTIME_FAKE = Image(
    name="localhost/qwenvl-runtime:fake-dev",
    dockerfile=_FAKE_ENGINE / "Dockerfile",
    usually="10 s, beside what it is built on",
    arguments={"RUNTIME_IMAGE": RUNTIME_CPU.name},
    context=_FAKE_ENGINE,
    sources=(_FAKE_ENGINE,),
    base=RUNTIME_CPU,
)
IMAGES = (OPERATOR, RUNTIME_CPU, RUNTIME_FAKE)


def ensure(*images: Image) -> None:
    """Have images in the store as the repository has them now."""
    for image in images:
        _build(image)


def ensure_on(node: Node, *images: Image) -> None:
    """Have images on a running node, which may be older than they are."""
    ensure(*images)
    for image in images:
        tag = json.loads(_record(image).read_text())["tag"]
        node.import_image(layout_folder(), tag, image.name)


def _record(image: Image) -> Path:
    return cache_folder() / "images" / f"{image.slug}.json"


def _build(image: Image) -> None:
    if image.base is not None:
        _build(image.base)
    record = _record(image)
    wanted = image.key()
    # One at a time: the images share a layout, and what a new one no longer uses is removed from it.
    with locked(cache_folder() / "images" / "lock"):
        if _is_current(record, wanted, image.name):
            return
        preflight.check(preflight.REBUILD if layout_folder().exists() else preflight.BUILD)
        tools.install_packages()
        with step(f"Building {image.name}", image.usually):
            base_image.ensure()
            buildah.build(
                image.name,
                image.dockerfile,
                image.context,
                target=image.target,
                arguments={**image.arguments, "VERSION": f"development-{wanted}"},
            )
            tag = buildah.write_layout(image.name, layout_folder())
            containerd.import_to_store(layout_folder(), tag, image.name)
            _tidy(layout_folder())
            digest = containerd.find_image(layout_folder(), tag)["digest"]
        record.write_text(json.dumps({"key": wanted, "tag": tag, "digest": digest}))


def layout_folder() -> Path:
    return cache_folder() / "layout"


def _is_current(record: Path, key: str, name: str) -> bool:
    if not record.exists():
        return False
    made = json.loads(record.read_text())
    return bool(made["key"] == key and containerd.imported().get(name) == made["digest"])


def _tidy(layout: Path) -> None:
    """Drop what no named image of the layout has any more, and keep one copy of what the store holds too."""
    index = json.loads((layout / "index.json").read_text())
    index["manifests"] = [entry for entry in index["manifests"] if entry.get("annotations")]
    (layout / "index.json").write_text(json.dumps(index))
    used = {blob for entry in index["manifests"] for blob in containerd.image_blobs(layout, entry["digest"])}
    stored = containerd.blobs(containerd.store_folder())
    for blob in (layout / "blobs" / "sha256").iterdir():
        if blob.name not in used:
            blob.unlink()
        elif (same := stored.get(blob.name)) and not blob.samefile(same):
            shared = blob.with_suffix(".shared")
            shared.hardlink_to(same)
            shared.replace(blob)
