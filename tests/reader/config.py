"""What stands beside the pool ("Files beside the pool"): secrets, keyring, anchor, backup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from codec import Cursor, u32, u64
from crypto import Kdf, derive, mac, open_seal
from errors import Damaged, Refused, Unsupported

KEYRING_MAGIC = b"\x89SRkeyring\r\n\x1a\n\0\0"
BACKUP_MAGIC = b"\x89SRbackup\r\n\x1a\n\0\0\0"
BACKUP_FILES = 16
ANCHOR_MAGIC = b"\x89SRanchor\r\n\x1a\n\0\0\0"
KEY_STATES = {1: "enabled", 2: "disabled", 3: "pending-deletion", 4: "deleted"}
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ALIKE = str.maketrans("OIL", "011")


@dataclass(frozen=True)
class RootSecret:
    """One way to open a pool: 32 bytes, or a passphrase that becomes them."""

    key: bytes | None = None
    passphrase: bytes | None = None

    def bytes_for(self, kdf: Kdf | None) -> bytes | None:
        """The secret for a wrap with this derivation; none where the wrap is of another sort."""
        if kdf is None:
            return self.key
        return None if self.passphrase is None else kdf.secret(self.passphrase)


def read_file(path: Path) -> bytes:
    """A whole file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error


def key_bytes(raw: bytes, what: object) -> bytes:
    """A secret of 32 bytes, as they are or as hexadecimal digits with or without a line end."""
    if len(raw) == 32:
        return raw
    try:
        key = bytes.fromhex(raw.decode("ascii"))
    except ValueError as error:
        raise Damaged(f"{what}: neither 32 bytes nor 64 hexadecimal digits") from error
    if len(key) != 32:
        raise Damaged(f"{what}: holds {len(key)} bytes, not 32")
    return key


def passphrase_file(path: Path) -> bytes:
    """A passphrase: what the file holds, without one line end."""
    return read_file(path).removesuffix(b"\n").removesuffix(b"\r")


def _times(a: int, b: int) -> int:
    """The product in GF(32) modulo x^5 + x^2 + 1."""
    product = 0
    for bit in range(5):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(8, 4, -1):
        if product >> bit & 1:
            product ^= 0b100101 << (bit - 5)
    return product


def recovery_key(text: str) -> bytes:
    """The secret that a recovery key spells, once each group's check character is right."""
    letters = re.sub(r"[\s-]", "", text).upper().translate(_ALIKE)
    groups = [letters[at : at + 5] for at in range(0, len(letters), 5)]
    if len(letters) != 65 or set(letters) - set(_ALPHABET):
        raise Damaged("recovery key: not 13 groups of 5 of its characters")
    bits = 0
    for number, group in enumerate(groups):
        *values, check = (_ALPHABET.index(character) for character in group)
        expected = number
        for value, weight in zip(values, (2, 4, 8, 16), strict=True):
            expected ^= _times(value, weight)
            bits = bits << 5 | value
        if check != expected:
            raise Damaged(f"recovery key: a typing error in group {number + 1}, {group}")
    if bits & 0xF:
        raise Damaged("recovery key: its last four bits are not zero")
    return (bits >> 4).to_bytes(32, "big")


@dataclass(frozen=True)
class LocalKey:
    """A customer key of the keyring."""

    name: str
    fingerprint: bytes
    state: str
    versions: dict[int, bytes]

    def unwrap(
        self, version: int, wrapped: bytes, pool_id: bytes, cluster_id: bytes, ck_id: int
    ) -> bytes:
        """W, out of a header's wrap, if the key may be used."""
        what = f"wrap by the key local://{self.name}, version {version}"
        if self.state != "enabled":
            raise Refused(f"{what}: the key is {self.state}")
        if version not in self.versions:
            raise Refused(f"{what}: the keyring has no such version")
        ad = self.fingerprint + pool_id + cluster_id + u32(ck_id)
        return open_seal(self.versions[version], "wrap", ad, wrapped, what)


@dataclass(frozen=True)
class Keyring:
    """The customer keys that the embedded keyring holds."""

    version: int
    keys: tuple[LocalKey, ...]

    @classmethod
    def open(cls, raw: bytes, secret: bytes) -> Keyring:
        """Opens the keyring's file with the keyring's own secret."""
        cursor = Cursor(raw, "keyring")
        if cursor.take(16) != KEYRING_MAGIC:
            cursor.fail("is no keyring")
        if (layout := cursor.u32()) != 1:
            raise Unsupported(f"keyring: format {layout} is not known")
        cursor.zeros(4)
        keyring_id, version = cursor.take(16), cursor.u64()
        ad = keyring_id + u64(version)
        sealed_key, sealed_body = cursor.sized(), cursor.sized()
        cursor.end()
        kek = derive(secret, b"", "keyring")
        file_key = open_seal(kek, "file-key", ad, sealed_key, "keyring, its file key")
        body = open_seal(file_key, "keyring", ad, sealed_body, "keyring, its body")
        return cls(version, _decode_keys(Cursor(body, "keyring, its body")))

    def find(self, name: str, fingerprint: bytes) -> LocalKey:
        """The key of that name and fingerprint; another one of the name will not do."""
        for key in self.keys:
            if (key.name, key.fingerprint) == (name, fingerprint):
                return key
        raise Refused(f"the keyring has no key {name} of fingerprint {fingerprint.hex()}")


def _decode_keys(cursor: Cursor) -> tuple[LocalKey, ...]:
    cursor.i64()  # the largest time seen
    keys = tuple(_decode_key(cursor) for _ in range(cursor.u32()))
    cursor.end()
    return keys


def _decode_key(cursor: Cursor) -> LocalKey:
    name, fingerprint = cursor.text(), cursor.take(16)
    state = KEY_STATES[cursor.one_of(KEY_STATES, "state")]
    cursor.zeros(3)
    cursor.u64()  # the waiting period
    cursor.i64()  # created
    cursor.i64()  # deletion
    versions = {}
    for _ in range(cursor.u32()):
        number = cursor.u32()
        cursor.i64()  # created
        versions[number] = cursor.take(32)
    if state == "deleted" and versions:
        cursor.fail(f"the deleted key {name} still has versions")
    return LocalKey(name, fingerprint, state, versions)


@dataclass(frozen=True)
class Anchor:
    """What this machine remembers of the pool, so that an older copy of it is noticed."""

    incarnation: int
    generation: int
    keyring_version: int

    @classmethod
    def open(cls, raw: bytes, engine_key: bytes, pool_id: bytes) -> Anchor:
        """Opens the anchor of this pool."""
        cursor = Cursor(raw, "anchor")
        if cursor.take(16) != ANCHOR_MAGIC:
            cursor.fail("is no anchor")
        if cursor.take(16) != pool_id:
            cursor.fail("is another pool's")
        anchor = cls(cursor.u64(), cursor.u64(), cursor.u64())
        signed, code = raw[: cursor.at], cursor.take(32)
        cursor.end()
        if mac(derive(engine_key, b"", "anchor"), signed) != code:
            raise Damaged("anchor: its HMAC differs")
        return anchor


@dataclass(frozen=True)
class Configuration:
    """The files of one pool: those of its folder, or those in a backup of it."""

    place: str
    files: Mapping[str, bytes]

    @classmethod
    def of_folder(cls, config_dir: Path, pool_id: bytes) -> Configuration:
        """The folder of a pool in the configuration directory."""
        folder = config_dir / "pools" / pool_id.hex()
        names = ("root.key", "keyring", "keyring.key", "generation")
        paths = [folder / name for name in names]
        return cls(str(folder), {path.name: read_file(path) for path in paths if path.exists()})

    @classmethod
    def of_backup(cls, path: Path, passphrase: bytes, pool_id: bytes) -> Configuration:
        """A backup of the configuration, opened with its passphrase."""
        raw = read_file(path)
        cursor = Cursor(raw, str(path))
        if cursor.take(16) != BACKUP_MAGIC:
            cursor.fail("is no backup of a configuration")
        if (layout := cursor.u32()) != 1:
            raise Unsupported(f"{path}: format {layout} is not known")
        cursor.zeros(4)
        if cursor.take(16) != pool_id:
            cursor.fail("is another pool's")
        secret = Kdf.decode(cursor).secret(passphrase)
        ad, sealed = raw[: cursor.at], cursor.sized()
        cursor.end()
        body = Cursor(open_seal(secret, "config-backup", ad, sealed, str(path)), str(path))
        count = body.u32()
        if count > BACKUP_FILES:
            body.fail(f"{count} files")
        files = {body.text(): body.sized() for _ in range(count)}
        body.end()
        return cls(str(path), files)

    def _file(self, name: str) -> bytes:
        if name not in self.files:
            raise Refused(f"{self.place}: there is no {name}")
        return self.files[name]

    def root_secret(self) -> RootSecret:
        """The secret in the key file."""
        return RootSecret(key=key_bytes(self._file("root.key"), f"{self.place}: root.key"))

    def keyring(self) -> Keyring:
        """The keyring, opened with the secret beside it."""
        secret = key_bytes(self._file("keyring.key"), f"{self.place}: keyring.key")
        return Keyring.open(self._file("keyring"), secret)

    def anchor(self, engine_key: bytes, pool_id: bytes) -> Anchor | None:
        """The anchor, where there is one."""
        raw = self.files.get("generation")
        return None if raw is None else Anchor.open(raw, engine_key, pool_id)
