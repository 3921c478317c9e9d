"""Writes the files of a volume into a folder: content, holes, names, modes, times, attributes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from errors import Damaged, ReaderError, Refused
from volume import ROOT_INODE, Inode, Volume


class Extractor:
    """Extracts one volume; hard links stay hard links."""

    def __init__(self, volume: Volume, out: Path) -> None:
        self._volume = volume
        self._out = os.fsencode(out)
        self._first_names: dict[int, bytes] = {}
        self._as_root = os.geteuid() == 0

    def run(self) -> int:
        """Extracts everything; how many names there are."""
        try:
            os.mkdir(self._out)
        except OSError as error:
            raise Refused(f"{os.fsdecode(self._out)}: {error.strerror}") from error
        root = self._volume.inode(ROOT_INODE)
        if not root.is_directory:
            raise Damaged(f"{self._volume.what}: its root is no directory")
        names = self._fill(root, self._out, frozenset({ROOT_INODE}))
        self._dress(root, self._out)
        return names

    def _fill(self, directory: Inode, path: bytes, above: frozenset[int]) -> int:
        names = 0
        for entry in self._volume.entries(directory):
            here = os.path.join(path, entry.name)
            inode = self._volume.inode(entry.inode)
            if entry.type != stat.S_IFMT(inode.mode) >> 12:
                raise Damaged(f"{self._shown(here)}: its entry and its inode differ in type")
            names += 1
            if inode.is_directory:
                if inode.number in above or inode.parent != directory.number:
                    raise Damaged(f"{self._shown(here)}: a directory that stands elsewhere")
                os.mkdir(here, 0o700)
                names += self._fill(inode, here, above | {inode.number})
            elif inode.number in self._first_names:
                os.link(self._first_names[inode.number], here, follow_symlinks=False)
                continue
            else:
                self._first_names[inode.number] = here
                self._create(inode, here)
            self._dress(inode, here)
        return names

    def _create(self, inode: Inode, path: bytes) -> None:
        if inode.is_symlink:
            os.symlink(self._volume.target(inode), path)
        elif inode.is_file:
            try:
                self._write(inode, path)
            except ReaderError as error:
                raise type(error)(f"{self._shown(path)}: {error}") from error
        else:
            os.mknod(path, inode.mode, inode.rdev)

    def _write(self, inode: Inode, path: bytes) -> None:
        with open(path, "xb") as file:
            for offset, data in self._volume.blocks(inode):
                file.seek(offset)
                file.write(data)
            file.truncate(inode.size)

    def _dress(self, inode: Inode, path: bytes) -> None:
        """Owner (as root), attributes, mode and times, in the order in which they last."""
        if self._as_root:
            os.chown(path, inode.uid, inode.gid, follow_symlinks=False)
        for name, value in self._volume.xattrs(inode).items():
            if self._as_root or name.startswith(b"user."):
                os.setxattr(path, name, value, follow_symlinks=False)
        if not inode.is_symlink:
            os.chmod(path, stat.S_IMODE(inode.mode))
        os.utime(path, ns=(inode.atime, inode.mtime), follow_symlinks=False)

    def _shown(self, path: bytes) -> str:
        return os.fsdecode(os.path.relpath(path, self._out))
