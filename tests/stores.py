"""A store of objects for fsspec, in a folder of this machine: ``store://user:password@bucket/key``.

As others do it, it has no folders and renames nothing; an object appears when its upload is
committed. Forked processes see the same one.
"""

import os
from pathlib import Path

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

CREDENTIALS = "alice:open-sesame"  # see servers.SECRETS


class Store(AbstractFileSystem):
    """Keys are names of files in `root`, with slashes quoted; `full` refuses uploads to some."""

    protocol = "store"
    cachable = False
    root = Path()
    full = "no key"

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("store://").removeprefix(f"{CREDENTIALS}@").strip("/")

    def at(self, path):
        return self.root / self._strip_protocol(path).replace("/", "%2F")

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        if self.at(path).exists():
            status = self.at(path).stat()
            return {
                "name": path,
                "size": status.st_size,
                "type": "file",
                "mtime": status.st_mtime_ns,
            }
        if any(key.startswith(f"{path}/") for key in keys()):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        below = [key[len(path) + 1 :] for key in keys() if key.startswith(f"{path}/")]
        if not below:
            return [self.info(path) if detail else path]
        names = sorted({f"{path}/{name.partition('/')[0]}" for name in below})
        return [self.info(name) for name in names] if detail else names

    def _open(self, path, mode="rb", block_size=None, autocommit=True, **kwargs):
        return _StoreFile(self, path, mode, block_size or 1 << 18, autocommit, **kwargs)

    def _rm(self, path):
        self.at(path).unlink(missing_ok=True)


class _StoreFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        return self.fs.at(self.path).read_bytes()[start:end]

    def _initiate_upload(self):
        self.parts = []

    def _upload_chunk(self, final=False):
        if self.fs.full in self.path:
            raise PermissionError(f"no room: store://{CREDENTIALS}@{self.path}")
        self.parts.append(self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()

    def commit(self):
        target = self.fs.at(self.path)
        temporary = target.with_name(f".{os.getpid()}-{target.name}")
        temporary.write_bytes(b"".join(self.parts))
        temporary.rename(target)

    def discard(self):
        self.parts = None


def keys():
    """List the keys of all objects."""
    names = (path.name for path in Store.root.iterdir())
    return sorted(name.replace("%2F", "/") for name in names if not name.startswith("."))


fsspec.register_implementation("store", Store, clobber=True)
