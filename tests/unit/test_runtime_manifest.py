"""What a manifest may say, and what may be in a snapshot's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import fake_engine
from harness.runtime_process import WEIGHTS
from qwenvl_operator import cli
from qwenvl_runtime import manifest_command
from qwenvl_runtime.manifest import FILE, Entry, Manifest, SnapshotError, digest_of, list_files

SHA = "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "snapshot"
    (made / "extra").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(WEIGHTS)
    (made / "extra" / "tokenizer.json").write_text("[]")
    return made


def manifest(*files: Any, **fields: Any) -> bytes:
    return json.dumps({"version": 1, "files": list(files), **fields}).encode()


def entry(path: Any = "config.json", **fields: Any) -> dict[str, Any]:
    return {"path": path, "size": 2, "sha256": SHA, **fields}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a manifest"),
        (b"[" * 100_000, "not a manifest"),
        (b"\xff\xfe", "not a manifest"),
        (manifest(version=2), "version"),
        (manifest(surplus=1), "surplus"),
        (manifest(entry("../config.json")), "files.0.path: Value error, '../config.json' is not the plain"),
        (manifest(entry("a/../../b")), "'a/../../b'"),
        (manifest(entry("/etc/passwd")), "'/etc/passwd'"),
        (manifest(entry("./config.json")), "'./config.json'"),
        (manifest(entry("a//b")), "'a//b'"),
        (manifest(entry("a/")), "'a/'"),
        (manifest(entry("a\0b")), "plain relative path"),
        (manifest(entry("")), "files.0.path"),
        (manifest(entry(FILE)), "does not list itself"),
        (manifest(entry(), entry()), "'config.json' is listed twice"),
        (manifest(entry("b"), entry("a")), "'a' is not in its place"),
        (manifest(entry(size=-1)), "files.0.size"),
        (manifest(entry(size="2")), "files.0.size"),
        (manifest(entry(sha256="0" * 63)), "files.0.sha256"),
        (manifest(entry(sha256="A" * 64)), "files.0.sha256"),
    ],
    ids=range(20),
)
def test_what_is_no_manifest_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(SnapshotError) as error:
        Manifest.parse(data)
    assert said in str(error.value)


def test_a_manifest_of_the_same_files_has_the_same_bytes() -> None:
    one, two = Entry(path="b/ü", size=1, sha256=SHA), Entry(path="a", size=2, sha256=SHA)
    assert Manifest.of([one, two]).dump() == Manifest.of([two, one]).dump()
    assert Manifest.parse(Manifest.of([one, two]).dump()) == Manifest.of([two, one])
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_every_file_is_listed_but_the_manifest(folder: Path) -> None:
    (folder / FILE).touch()
    (folder / "lost+found").mkdir()
    (folder / "lost+found" / "piece").touch()
    (folder / "empty").mkdir()
    (folder / ".hidden").touch()
    (folder / "extra" / FILE).touch()
    (folder / "link").symlink_to("extra/tokenizer.json")
    listed = list_files(folder)
    assert sorted(listed) == [
        ".hidden",
        "config.json",
        "extra/qwenvl-manifest.json",
        "extra/tokenizer.json",
        "link",
        "model.safetensors",
    ]
    assert listed["link"] == listed["extra/tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("link", lambda path: path.symlink_to("/etc/passwd"), "link is a symbolic link out of the folder"),
        ("link", lambda path: path.symlink_to("../outside"), "link is a symbolic link out of the folder"),
        ("link", lambda path: path.symlink_to("nowhere"), "link is a symbolic link that leads nowhere"),
        ("link", lambda path: path.symlink_to("link"), "link is a symbolic link that leads nowhere"),
        ("link", lambda path: path.symlink_to("extra"), "link is neither a regular file nor a link to one"),
        ("pipe", os.mkfifo, "pipe is neither a regular file"),
        ("two\nlines", lambda path: path.touch(), "unprintable"),
        (os.fsdecode(b"\xff"), lambda path: path.touch(), "not in UTF-8"),
    ],
)
def test_what_is_no_file_of_a_snapshot_is_refused(folder: Path, name: str, make: Any, said: str) -> None:
    (folder.parent / "outside").touch()
    make(folder / name)
    with pytest.raises(SnapshotError) as error:
        list_files(folder)
    assert said in str(error.value)


def test_a_neighbour_whose_name_begins_alike_is_outside(folder: Path) -> None:
    (folder.parent / "snapshot-2").mkdir()
    (folder.parent / "snapshot-2" / "file").touch()
    (folder / "link").symlink_to("../snapshot-2/file")
    with pytest.raises(SnapshotError, match="out of the folder"):
        list_files(folder)


def test_create_prints_the_digest_that_verify_wants(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["manifest", "create", str(folder)]) == 0
    digest = capsys.readouterr().out.strip()
    assert digest == digest_of((folder / FILE).read_bytes())
    assert cli.main(["manifest", "create", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == digest, "a second time gives the same"
    assert cli.main(["manifest", "verify", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == digest
    assert cli.main(["manifest", "verify", str(folder), "--digest", digest]) == 0
    assert cli.main(["manifest", "verify", str(folder), "--digest", "sha256:" + SHA]) == 1
    assert "not sha256:000" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "extra", "model.safetensors", FILE]


def test_verify_names_every_file_that_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        (folder / f"same-{number}").write_text("1")
    (folder / "gone").touch()
    assert cli.main(["manifest", "create", str(folder)]) == 0
    capsys.readouterr()
    (folder / "gone").unlink()
    (folder / "config.json").write_text('{"longer": 1}')
    for number in range(9):
        (folder / f"same-{number}").write_text("2")
        (folder / f"more-{number}").touch()
    assert cli.main(["manifest", "verify", str(folder)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: {folder} is not what its manifest says",
        "missing: gone",
        *(f"not in the manifest: more-{number}" for number in range(9)),
        "of another size: config.json (13 bytes, the manifest says 2)",
        *(f"of another content (sha256): same-{number}" for number in range(9)),
    ]


def test_what_an_interrupted_create_left_is_not_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / f"{FILE}.part").write_text("{")
    assert cli.main(["manifest", "create", str(folder)]) == 0
    digest = capsys.readouterr().out.strip()
    assert cli.main(["manifest", "verify", str(folder), "--digest", digest]) == 0, capsys.readouterr().err


def test_nothing_is_hashed_for_a_folder_that_takes_no_manifest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As on a volume that is mounted read-only, which a test cannot do; and root may write wherever the mode forbids it.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    monkeypatch.setattr(manifest_command, "hash_files", None)
    assert cli.main(["manifest", "create", str(folder)]) == 1
    assert f"{folder} cannot be written to (as user {os.geteuid()})" in capsys.readouterr().err


def test_the_simulated_engine_s_snapshot_has_its_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["manifest", "verify", str(fake_engine.MODEL)]) == 0, capsys.readouterr().err


def test_a_folder_without_a_model_gets_no_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["manifest", "create", str(tmp_path)]) == 1
    assert "config.json is missing" in capsys.readouterr().err
    assert cli.main(["manifest", "verify", str(tmp_path)]) == 1
    assert "qwenvl manifest create" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["manifest", "verify", str(tmp_path), "--digest", "md5:1"])


def test_thousands_of_files_are_no_matter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3000):
        (folder / f"{number}.bin").write_bytes(b"%d" % number)
    assert cli.main(["manifest", "create", str(folder)]) == 0
    assert cli.main(["manifest", "verify", str(folder)]) == 0
    assert "3003 files" in capsys.readouterr().err
