"""Suite 1 ("Sealing, derivation and block encryption"): derive, open seals, open blocks."""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from codec import Cursor, u32, u64
from errors import Damaged, Unsupported, WrongKey

SEAL_OVERHEAD = 80


def _label(name: str) -> bytes:
    return b"strongroom/1/" + name.encode() + b"\0"


def _hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt or None, info).derive(ikm)


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()


def derive(ikm: bytes, salt: bytes, label: str, suffix: bytes = b"") -> bytes:
    """A key of 32 bytes out of another."""
    return _hkdf(ikm, salt, _label(label) + suffix, 32)


def mac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256."""
    code = hmac.HMAC(key, hashes.SHA256())
    code.update(data)
    return code.finalize()


def open_seal(key: bytes, label: str, ad: bytes, sealed: bytes, what: str) -> bytes:
    """The plaintext of sealed bytes; tells a wrong key, label or AD from damage behind it."""
    if len(sealed) < SEAL_OVERHEAD:
        raise Damaged(f"{what}: shorter than any sealed bytes")
    nonce, commitment, body = sealed[:32], sealed[32:64], sealed[64:]
    okm = _hkdf(key, nonce, _label(label) + sha256(ad), 64)
    if not compare_digest(okm[32:], commitment):
        raise WrongKey(f"{what}: the key does not open it")
    try:
        return AESGCMSIV(okm[:32]).decrypt(bytes(12), body, None)
    except InvalidTag as error:
        raise Damaged(f"{what}: damaged, the tag of its seal differs") from error


def seal_id(sealed: bytes) -> bytes:
    """What names sealed bytes: their key commitment."""
    return sealed[32:64]


def open_block(key: bytes, tag: bytes, kind: str, ciphertext: bytes, what: str) -> bytes:
    """The plaintext of a data block, node or region map, once its tag is right."""
    keys = blake3(_label(kind), key=key).digest(length=96)
    xts_key, mac_key = keys[:64], keys[64:]
    if not compare_digest(blake3(ciphertext, key=mac_key).digest(length=16), tag):
        raise Damaged(f"{what}: damaged, its tag differs")
    unit = Cipher(algorithms.AES(xts_key), modes.XTS(bytes(16))).decryptor()
    return unit.update(ciphertext) + unit.finalize()


def name_hash(key: bytes, parent: int, name: bytes) -> int:
    """The hash by which names of files and attributes are found."""
    return int.from_bytes(blake3(u64(parent) + name, key=key).digest(length=8), "little")


@dataclass(frozen=True)
class Kdf:
    """Argon2id with its parameters: a passphrase to a secret."""

    raw: bytes
    memory_kib: int
    passes: int
    lanes: int
    salt: bytes

    @classmethod
    def decode(cls, cursor: Cursor) -> Kdf:
        """The 48 bytes of a `kdf` field, within the bounds a reader accepts."""
        raw = cursor.take(48)
        fields = Cursor(raw, cursor.what)
        algorithm, memory, passes, lanes = (fields.u32() for _ in range(4))
        if algorithm != 1:
            raise Unsupported(f"{cursor.what}: key derivation {algorithm} is not known")
        if not (1 << 16 <= memory <= 1 << 20 and 3 <= passes <= 16 and lanes == 1):
            cursor.fail("parameters of the key derivation out of bounds")
        return cls(raw, memory, passes, lanes, fields.take(32))

    def secret(self, passphrase: bytes) -> bytes:
        """The 32 bytes that the passphrase stands for."""
        return Argon2id(
            salt=self.salt,
            length=32,
            iterations=self.passes,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        ).derive(passphrase)


def cluster_key(secret: bytes, salt: bytes, pool_id: bytes, cluster_id: bytes, ck_id: int) -> bytes:
    """CK, of one version of a cluster's key."""
    return derive(secret, salt, "cluster", pool_id + cluster_id + u32(ck_id))
