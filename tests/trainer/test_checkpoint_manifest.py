"""The manifest survives a round trip and refuses any damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.checkpoint_world import header, manifest_of, path_of, save
from trainer.checkpoint.fragments import Span
from trainer.checkpoint.manifest import MANIFEST_NAME, VERSION, Manifest, digest_of, parse, render
from trainer.checkpoint.store import read_manifest
from trainer.errors import TrainError


def test_manifest_round_trip_keeps_every_field(tmp_path: Path) -> None:
    manifest = manifest_of(save(tmp_path))
    assert parse(render(manifest), tmp_path) == manifest
    assert manifest.header == header()
    assert manifest.step == 200
    assert manifest.loss_scale == {"cur_scale": 65536.0, "cur_iter": 3}
    assert manifest.shapes == {"embed.weight": (7, 5), "norm.bias": (3,), "scale": ()}
    assert (manifest.frozen, manifest.buffers) == ({"frozen.weight": (2, 3)}, {"mask": (3,)})
    assert [record.name for record in manifest.files] == [
        "rank-00000-of-00002.safetensors",
        "rank-00001-of-00002.safetensors",
    ]
    assert [saved.span for saved in manifest.files[1].spans] == [Span("embed.weight", 18, 17), Span("norm.bias", 2, 1)]
    assert {saved.step for record in manifest.files for saved in record.spans} == {17.0}


def test_manifest_text_names_what_readers_look_for(tmp_path: Path) -> None:
    body = json.loads((path_of(save(tmp_path)) / MANIFEST_NAME).read_text())
    assert body["version"] == 2
    assert body["settings_digest"] == digest_of({"seed": 1337, "model": {"n_layer": 2}})
    assert body["optimizer_steps"] == {"embed.weight": 17.0, "norm.bias": 17.0, "scale": 17.0}


def test_manifest_with_any_bit_flipped_is_refused_or_the_same(tmp_path: Path) -> None:
    path = path_of(save(tmp_path)) / MANIFEST_NAME
    text, manifest = path.read_bytes(), read_manifest(path.parent)
    refused = 0
    for position in range(0, len(text), 7):
        damaged = bytearray(text)
        damaged[position] ^= 1 << (position % 7)
        try:
            assert parse(bytes(damaged), path) == manifest  # a space that became another space
        except TrainError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > len(text) // 7 // 2


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"version": 1}', b"null"])
def test_manifest_of_garbage_is_refused_with_its_path(text: bytes) -> None:
    with pytest.raises(TrainError, match=r"some/manifest\.json"):
        parse(text, Path("some/manifest.json"))


def test_manifest_of_another_version_is_refused() -> None:
    body = {"version": 99}
    text = json.dumps({**body, "sha256": digest_of(body)}).encode()
    with pytest.raises(TrainError, match="field version must be 1 or 2, found 99"):
        parse(text, Path("m.json"))


def test_manifest_with_a_path_for_a_file_name_is_refused(tmp_path: Path) -> None:
    body = json.loads(render(manifest_of(save(tmp_path))))
    body.pop("sha256")
    body["files"][0]["name"] = "../rank-00000-of-00002.safetensors"
    with pytest.raises(TrainError, match="plain file name"):
        parse(json.dumps({**body, "sha256": digest_of(body)}).encode(), Path("m.json"))


def with_first_file(manifest: Manifest, version: int = VERSION, **changes: object) -> bytes:
    """The manifest's text with other fields of its first file; None takes one away."""
    body = {**json.loads(render(manifest)), "version": version}
    body.pop("sha256")
    record = {**body["files"][0], **changes}
    body["files"][0] = {name: value for name, value in record.items() if value is not None}
    return json.dumps({**body, "sha256": digest_of(body)}).encode()


def test_manifest_of_before_there_was_a_choice_of_hashes_is_read(tmp_path: Path) -> None:
    manifest = manifest_of(save(tmp_path))
    assert manifest.files[0].digest.startswith("xxh3-128:")
    older = parse(with_first_file(manifest, version=1, digest=None, sha256="ab12"), tmp_path)
    assert older.files[0].digest == "sha256:ab12"
    assert older.files[1] == manifest.files[1]


def test_manifest_with_an_unknown_hash_is_refused(tmp_path: Path) -> None:
    manifest = manifest_of(save(tmp_path))
    with pytest.raises(TrainError, match=r"one of xxh3-128, sha256, found 'md5:ab12'"):
        parse(with_first_file(manifest, digest="md5:ab12"), tmp_path)


def test_read_manifest_of_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="must have a manifest"):
        read_manifest(tmp_path)
