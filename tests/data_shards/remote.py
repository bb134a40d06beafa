"""Datasets in object stores, for the tests."""

import uuid

from data_shards.object_folder import ObjectFolder
from data_shards.storage import open_folder


def memory_address() -> str:
    """A store of this process alone, empty."""
    return f"memory://{uuid.uuid4().hex}/d"


def stored_files(address: str) -> dict[str, bytes]:
    """All files of a folder by name, hidden ones left out."""
    folder = open_folder(address)
    found = {name: folder.read(name) for name in folder.names()}
    return {name: data for name, data in found.items() if data is not None}


def shards_of(files: dict[str, bytes]) -> dict[str, bytes]:
    """The tars among files."""
    return {name: data for name, data in files.items() if name.endswith(".tar")}


class Crash(BaseException):
    """Stands for whatever ends a process."""


class Mortal:
    """Patches ObjectFolder so that the process `dies` at the n-th thing that it would change, before or after it."""

    CHANGES = ("write", "create", "publish", "remove")

    def __init__(self, at: int, *, after: bool) -> None:
        self.done = 0
        self._at, self._after = at, after
        self._real = {name: getattr(ObjectFolder, name) for name in self.CHANGES}

    def __enter__(self) -> "Mortal":
        for name in self.CHANGES:
            setattr(ObjectFolder, name, self._mortal(name))
        return self

    def __exit__(self, *error: object) -> None:
        for name, method in self._real.items():
            setattr(ObjectFolder, name, method)

    def _mortal(self, name: str):  # type: ignore[no-untyped-def]
        def change(folder: ObjectFolder, *args: object) -> object:
            self.done += 1
            if self.done >= self._at and not self._after:
                raise Crash
            result = self._real[name](folder, *args)
            if self.done >= self._at:
                raise Crash
            return result

        return change
