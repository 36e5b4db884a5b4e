"""Which snapshots are loaded, and what is said of those that are not."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.runtime_process import build_config
from qwenvl_runtime import snapshot as subject
from qwenvl_runtime.hashing import hash_files
from qwenvl_runtime.manifest import FILE, SnapshotError, digest_of
from qwenvl_runtime.manifest_command import create
from qwenvl_runtime.snapshot import QuantizationMismatchError, Snapshot

LATER = time.time() + 3600
"""Of a start at which every file has been as it is for a while."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def safetensors(size: int = 64, name: str = "weight") -> bytes:
    header = json.dumps({name: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(range(256)) * (size // 256) + bytes(size % 256)


def fill(folder: Path) -> None:
    (folder / "processor").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "processor" / "tokenizer.json").write_text("[]")
    (folder / WEIGHTS).write_bytes(safetensors())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "model")
    create(tmp_path / "model")
    return tmp_path / "model"


def snapshot_of(folder: Path, digest: str | None = None, always: bool = False, **engine: Any) -> Snapshot:
    pinned = digest_of((folder / FILE).read_bytes()) if digest is None else digest
    config = build_config(
        engine={"model_path": str(folder), **engine},
        snapshot={"manifest_digest": pinned, "trust_marker": not always},
    )
    return Snapshot(config, folder.parent / "cache")


def refusal(folder: Path, digest: str | None = None, **engine: Any) -> str:
    with pytest.raises(SnapshotError) as error:
        snapshot_of(folder, digest, **engine).check(LATER)
    return str(error.value)


def flip(path: Path) -> None:
    """One bit of one byte, as a bad disk would: its times are what they were."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_whole_snapshot_is_verified(folder: Path) -> None:
    snapshot = snapshot_of(folder)
    before = snapshot.report()
    assert before is not None
    assert before.verified_at is None
    snapshot.check(LATER)
    report = snapshot.report()
    assert report is not None
    assert (report.files, report.verified_at, report.from_marker) == (3, LATER, False)
    assert report.bytes_done == report.bytes_total == snapshot.progress.done > 64
    snapshot.check_unchanged()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda folder: flip(folder / WEIGHTS), f"of another content (sha256): {WEIGHTS}"),
    "flipped below": (lambda folder: flip(folder / "processor/tokenizer.json"), "(sha256): processor/tokenizer.json"),
    "missing": (lambda folder: (folder / WEIGHTS).unlink(), f"missing: {WEIGHTS}"),
    "truncated": (lambda folder: truncate(folder / WEIGHTS), f"of another size: {WEIGHTS} ("),
    "emptied": (lambda folder: (folder / WEIGHTS).write_bytes(b""), f"{WEIGHTS} (0 bytes, the manifest says "),
    "extra": (lambda folder: (folder / "run.py").touch(), "not in the manifest: run.py"),
    "extra below": (lambda folder: (folder / "processor/.x").touch(), "not in the manifest: processor/.x"),
    "link out": (
        lambda folder: (folder / "processor/link").symlink_to("/etc/passwd"),
        "processor/link is a symbolic link out of the folder",
    ),
    "file became a link": (
        lambda folder: (
            (folder / WEIGHTS).rename(folder.parent / "w") and (folder / WEIGHTS).symlink_to(folder.parent / "w")
        ),
        f"{WEIGHTS} is a symbolic link out of the folder",
    ),
    "file became a folder": (
        lambda folder: (folder / WEIGHTS).unlink() or (folder / WEIGHTS).mkdir(),
        f"missing: {WEIGHTS}",
    ),
    "manifest changed": (lambda folder: flip(folder / FILE), "qwenvl-manifest.json has the digest sha256:"),
    "manifest missing": (lambda folder: (folder / FILE).unlink(), "qwenvl-manifest.json is missing"),
    "manifest elsewhere": (
        lambda folder: (folder / FILE).rename(folder.parent / "m") and (folder / FILE).symlink_to("../m"),
        "qwenvl-manifest.json is missing or no regular file",
    ),
    "configuration missing": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "folder missing": (lambda folder: folder.rename(folder.parent / "gone"), "model is missing or no folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("remembered", [False, True])
def test_a_damaged_snapshot_is_never_loaded(folder: Path, damage: str, remembered: bool) -> None:
    digest = digest_of((folder / FILE).read_bytes())
    if remembered:
        snapshot_of(folder).check(LATER)
        assert list((folder.parent / "cache").rglob("*.json"))
    change, said = DAMAGES[damage]
    change(folder)
    assert said in refusal(folder, digest)


def test_all_that_is_wrong_is_told_at_once_and_briefly(folder: Path) -> None:
    (folder / "processor/tokenizer.json").unlink()
    for number in range(9):
        (folder / f"extra-{number}").touch()
    said = refusal(folder)
    assert "missing: processor/tokenizer.json; not in the manifest: extra-0," in said
    assert said.endswith("extra-4 and 4 more")


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {WEIGHTS: OSError(5, "Input/output error")}
    monkeypatch.setattr(subject, "hash_files", lambda files, progress: {**hash_files(files, progress), **failed})
    assert f"unreadable: {WEIGHTS} (Input/output error)" in refusal(folder)


def test_a_link_within_the_folder_is_the_file_it_leads_to(folder: Path) -> None:
    (folder / "latest").symlink_to(WEIGHTS)
    create(folder)
    snapshot_of(folder).check(LATER)
    (folder / "latest").unlink()
    (folder / "latest").symlink_to("config.json")
    assert "latest" in refusal(folder)


# The marker


def hashed(snapshot: Snapshot, now: float = LATER) -> bool:
    snapshot.check(now)
    report = snapshot.report()
    assert report is not None
    assert report.from_marker == (snapshot.progress.done == 0)
    return not report.from_marker


def test_an_unchanged_snapshot_is_not_hashed_again(folder: Path) -> None:
    assert hashed(snapshot_of(folder))
    again = snapshot_of(folder)
    assert not hashed(again, LATER + 60)
    report = again.report()
    assert report is not None
    assert report.verified_at == LATER, "that is when it was read"
    assert hashed(snapshot_of(folder, always=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.chmod(0o600),
        lambda path: (path.rename(path.with_name("x")), path.with_name("x").rename(path)),
        lambda path: (path.with_name("x").write_bytes(path.read_bytes()), path.with_name("x").replace(path)),
        flip,
    ],
    ids=["times", "mode", "renamed", "another inode", "content alone"],
)
def test_whatever_happened_to_a_file_has_it_hashed_again(folder: Path, change: Callable[[Path], object]) -> None:
    assert hashed(snapshot_of(folder))
    change(folder / WEIGHTS)
    snapshot = snapshot_of(folder)
    if change is flip:
        with pytest.raises(SnapshotError, match="sha256"):
            snapshot.check(LATER)
    else:
        assert hashed(snapshot)


def test_another_manifest_is_hashed_by(folder: Path) -> None:
    assert hashed(snapshot_of(folder))
    (folder / "more.json").write_text("{}")
    create(folder)
    assert hashed(snapshot_of(folder))


def test_a_file_that_was_written_a_moment_ago_is_not_trusted(folder: Path) -> None:
    assert hashed(snapshot_of(folder), time.time())
    assert hashed(snapshot_of(folder), time.time())


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 99_999, b'{"digest": "x", "stamps": {}, "hashed_at": 1}'])
def test_a_broken_marker_is_no_marker(folder: Path, content: bytes) -> None:
    assert hashed(snapshot_of(folder))
    (marker,) = (folder.parent / "cache").rglob("*.json")
    marker.write_bytes(content)
    assert hashed(snapshot_of(folder))
    assert not hashed(snapshot_of(folder)), "it is written anew"


def test_a_cache_that_takes_no_marker_is_no_fault(folder: Path) -> None:
    (folder.parent / "cache").write_text("a file where a folder should be")
    assert hashed(snapshot_of(folder))
    assert hashed(snapshot_of(folder))


# While it is hashed, and after


def test_what_changes_while_it_is_hashed_is_not_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_and_change(*given: Any) -> Any:
        found = hash_files(*given)
        flip(folder / WEIGHTS)
        return found

    monkeypatch.setattr(subject, "hash_files", hash_and_change)
    assert refusal(folder).endswith(f"has changed while it was hashed: {WEIGHTS}")


def test_what_changes_while_it_is_loaded_is_not_served(folder: Path) -> None:
    snapshot = snapshot_of(folder)
    snapshot.check(LATER)
    (folder / "late.py").touch()
    flip(folder / WEIGHTS)
    with pytest.raises(SnapshotError, match=f"has changed while the engine loaded it: ./, late.py, {WEIGHTS}"):
        snapshot.check_unchanged()


@pytest.mark.parametrize("moved", [".", "processor"])
def test_a_folder_that_was_another_while_it_was_loaded_is_not_served(folder: Path, moved: str) -> None:
    snapshot, path = snapshot_of(folder), folder / moved
    snapshot.check(LATER)
    snapshot.check_unchanged()
    kept = path.rename(folder.parent / "kept")
    path.mkdir()
    path.rmdir()
    kept.rename(path)
    with pytest.raises(SnapshotError, match=f"has changed while the engine loaded it: .*{moved}/"):
        snapshot.check_unchanged()


# Without a manifest


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: folder.rename(folder.parent / "gone"), "model is missing or no folder: is spec.model.source"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: truncate(folder / WEIGHTS), "bytes, by its header it should have"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"\x10"), "its header is not whole"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"<html>not found</html>"), "its header is not whole"),
        (lambda folder: (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2) + b"[]"), "its header cannot be read"),
        (
            lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "b.safetensors"}}'),
            "b.safetensors is missing; model.safetensors.index.json names it",
        ),
        (lambda folder: os.mkfifo(folder / "pipe.safetensors"), "pipe.safetensors is no regular file"),
        (lambda folder: (folder / "device.safetensors").symlink_to("/dev/zero"), "is no regular file"),
        (lambda folder: os.mkfifo(folder / INDEX), "index.json is no regular file"),
        (lambda folder: (folder / INDEX).write_text("{"), "is not JSON"),
        (lambda folder: (folder / INDEX).write_text("{}"), "has no weight_map"),
    ],
    ids=range(12),
)
def test_what_can_be_seen_at_once_is_checked_always(folder: Path, damage: Any, said: str) -> None:
    snapshot_of(folder, "").check(LATER)
    damage(folder)
    assert said in refusal(folder, "")


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        (["a.safetensors"], None, ""),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None, ""),
        (["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"], None, ""),
        (["model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"], None, ""),
        (["model-00001-of-00002.safetensors"], ["model-00001-of-00002.safetensors"], ""),
        (["pytorch_model.bin"], None, ""),
        (["model.pt"], None, ""),
        (["model.safetensors", "pytorch_model-00001-of-00002.bin"], None, ""),
        (["model.safetensors", "._model.safetensors"], None, ""),
        ([], None, "has no weights: no file *.safetensors, *.bin, *.pt"),
        (["._model.safetensors"], None, "has no weights"),
        ([], [], "index.json names no weights"),
        (["model.safetensors"], [], "index.json names no weights"),
        (["model-00001-of-00013.safetensors"], None, "has only 1 of the 00013 files model-*-of-00013, and no model."),
        (
            ["a-1-of-2.safetensors", "a-2-of-2.safetensors", "b-1-of-2.safetensors"],
            None,
            "has only 1 of the 2 files b-*",
        ),
        (["pytorch_model-00001-of-00002.bin"], None, "has only 1 of the 00002 files pytorch_model-*-of-00002"),
    ],
)
def test_weights_are_there_as_the_engine_looks_for_them(
    folder: Path, names: list[str], index: list[str] | None, said: str
) -> None:
    (folder / WEIGHTS).unlink()
    for name in names:
        (folder / name).write_bytes(b"" if name.startswith(".") else safetensors())
    if index is not None:
        (folder / INDEX).write_text(json.dumps({"weight_map": {name: name for name in index}}))
    if said:
        assert said in refusal(folder, "")
    else:
        snapshot_of(folder, "").check(LATER)


def test_another_way_to_load_needs_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    snapshot_of(folder, "", extra_args=("--load-format=dummy",)).check(LATER)


def test_nothing_is_hashed_where_nothing_is_pinned(folder: Path) -> None:
    (folder / "extra").touch()
    snapshot = snapshot_of(folder, "")
    snapshot.check(LATER)
    assert snapshot.report() is None
    snapshot.check_unchanged()


# Quantization


def compressed(kind: str, bits: int, layout: str) -> dict[str, Any]:
    group = {"weights": {"type": kind, "num_bits": bits}, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": group}}


OFFICIAL_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
FORMATS: list[tuple[dict[str, Any] | None, set[str], str]] = [
    (None, {"none"}, "no quantization"),
    (OFFICIAL_FP8, {"fp8"}, "fp8"),
    ({"quant_method": "awq", "bits": 4}, {"awq"}, "awq"),
    ({"quant_method": "gptq", "bits": 4}, {"gptq"}, "gptq"),
    ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, {"gptq"}, "auto-round"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {"nvfp4"}, "modelopt NVFP4"),
    ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, {"fp8"}, "modelopt FP8"),
    ({"quant_method": "modelopt_fp4"}, {"nvfp4"}, "modelopt_fp4"),
    (compressed("float", 8, "float-quantized"), {"fp8"}, "compressed-tensors float-quantized float8"),
    (compressed("int", 8, "int-quantized"), {"int8"}, "int-quantized int8"),
    (compressed("int", 4, "pack-quantized"), {"awq", "gptq"}, "pack-quantized int4"),
    (compressed("int", 8, "pack-quantized"), {"int8"}, "pack-quantized int8"),
    (compressed("float", 4, "nvfp4-pack-quantized"), {"nvfp4"}, "nvfp4-pack-quantized"),
    (compressed("float", 4, "mxfp4-pack-quantized"), set(), "mxfp4-pack-quantized"),
    ({"quant_method": "quark"}, set(), "quark"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, set(), "bitsandbytes"),
]
DECLARABLE = ("fp8", "int8", "awq", "gptq", "nvfp4", "none")


@pytest.mark.parametrize(("section", "accepted", "words"), FORMATS, ids=range(len(FORMATS)))
@pytest.mark.parametrize("nested", [False, True])
def test_the_declared_format_is_that_of_the_snapshot(
    folder: Path, section: dict[str, Any] | None, accepted: set[str], words: str, nested: bool
) -> None:
    config = {"quantization_config": section} if section else {}
    (folder / "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    for declared in DECLARABLE:
        snapshot = snapshot_of(folder, "", quantization=declared)
        if declared in accepted:
            snapshot.check(LATER)
        else:
            with pytest.raises(QuantizationMismatchError) as error:
                snapshot.check(LATER)
            assert f"spec.model.quantization is {declared}, and {folder}/config.json says " in str(error.value)
            assert words in str(error.value)


def test_modelopt_may_keep_it_in_a_file_of_its_own(folder: Path) -> None:
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    snapshot_of(folder, "", quantization="nvfp4").check(LATER)


@pytest.mark.parametrize("extra", [("--quantization=fp8_per_block",), ("-q", "fp8_per_tensor")])
def test_plain_weights_may_be_quantized_while_they_are_loaded(folder: Path, extra: tuple[str, ...]) -> None:
    snapshot_of(folder, "", quantization="fp8", extra_args=extra).check(LATER)
    assert "no quantization" not in refusal(folder, "", quantization="none", extra_args=extra)


def test_what_nobody_declared_may_be_anything(folder: Path) -> None:
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "new"}}')
    snapshot_of(folder, "").check(LATER)


@pytest.mark.parametrize("content", ["", "[]", '{"quantization_config": 7}', '{"text_config": "x"}'])
def test_a_configuration_that_cannot_be_read_is_invalid(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json" in refusal(folder, "", quantization="fp8")


@pytest.mark.parametrize(
    "content", ['{"quantization": null}', '{"quantization": "NVFP4"}', '{"quantization": ["NVFP4"]}']
)
def test_modelopt_s_file_may_hold_anything(folder: Path, content: str) -> None:
    (folder / "hf_quant_config.json").write_text(content)
    said = refusal(folder, "", quantization="nvfp4")
    assert ("modelopt" if "null" in content else "quantization in hf_quant_config.json is not an object") in said


KNOWN = (
    *("quantization_config", "compression_config", "text_config", "quantization", "quant_method", "quant_algo"),
    *("config_groups", "format", "weights", "type", "num_bits", "packing_format", "weight_map", "data_offsets"),
    *("compressed-tensors", "modelopt", "auto-round", "fp8", "\ud800", "\0", "__metadata__"),
)
WORDS = st.sampled_from(KNOWN) | st.text(max_size=3)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


HOLDERS = {
    "config.json": "quantization_config",
    "hf_quant_config.json": "quantization",
    INDEX: "weight_map",
    WEIGHTS: "w",
}
"""The field of each file in which anything might be."""


@pytest.mark.parametrize("file", HOLDERS)
@settings(deadline=None)
@given(content=ANYTHING, whole=st.booleans())
@example(content={"data_offsets": ["0", "64"]}, whole=False)
@example(content={"data_offsets": [0, 64.0]}, whole=False)
def test_whatever_its_files_hold_a_snapshot_is_whole_or_refused(file: str, content: object, whole: bool) -> None:
    data = json.dumps(content if whole else {HOLDERS[file]: content}).encode()
    with TemporaryDirectory() as name:
        folder = Path(name, "model")
        fill(folder)
        (folder / file).write_bytes(struct.pack("<Q", len(data)) + data if file == WEIGHTS else data)
        with suppress(SnapshotError):
            snapshot_of(folder, "", quantization="fp8").check(LATER)


def test_a_snapshot_that_was_tampered_with_is_called_that(folder: Path) -> None:
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    with pytest.raises(SnapshotError) as error:
        snapshot_of(folder, quantization="fp8").check(LATER)
    assert not isinstance(error.value, QuantizationMismatchError)
