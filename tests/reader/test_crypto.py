"""The reader's cryptography gives the values of tests/data/vectors."""

from __future__ import annotations

import json
import unittest
from pathlib import Path
from typing import Any

from codec import crc32c
from crypto import Kdf, cluster_key, derive, mac, name_hash, open_block, open_seal
from errors import Damaged, WrongKey

VECTORS = Path(__file__).parent.parent / "data" / "vectors"


class Vectors(unittest.TestCase):
    """Each sort of value, and that a changed bit is refused."""

    def setUp(self) -> None:
        self.values: dict[str, Any] = json.loads((VECTORS / "crypto.json").read_text())

    def test_crc(self) -> None:
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)

    def test_derivation(self) -> None:
        for value in self.values["derive"]:
            ikm, salt, suffix = (bytes.fromhex(value[name]) for name in ("ikm", "salt", "suffix"))
            self.assertEqual(derive(ikm, salt, value["label"], suffix).hex(), value["out"])

    def test_keys(self) -> None:
        values = self.values["keys"]
        keys = {name: bytes.fromhex(v) for name, v in values.items() if isinstance(v, str)}
        pool, cluster = keys["pool"], keys["cluster"]
        self.assertEqual(derive(keys["root_secret"], pool, "root"), keys["kek"])
        self.assertEqual(derive(keys["engine_key"], bytes(32), "slot"), keys["slot_key"])
        secret, salt, ck_id = keys["cluster_secret"], keys["header_salt"], values["ck_id"]
        self.assertEqual(cluster_key(secret, salt, pool, cluster, ck_id), keys["cluster_key"])
        inner = derive(keys["log_seed"], keys["log_outer_key"], "log-inner", cluster)
        self.assertEqual(inner, keys["log_inner_key"])
        self.assertEqual(derive(keys["keyring_secret"], b"", "keyring"), keys["keyring_kek"])
        anchor_key = derive(keys["engine_key"], b"", "anchor")
        self.assertEqual(anchor_key, keys["anchor_key"])
        self.assertEqual(mac(anchor_key, b"abc"), keys["anchor_mac_of_abc"])

    def test_blocks(self) -> None:
        # The longest ones state only a hash of the ciphertext, which a reader never makes.
        for value in (value for value in self.values["block"] if "cipher" in value):
            key, tag, cipher = (bytes.fromhex(value[name]) for name in ("key", "tag", "cipher"))
            plain = open_block(key, tag, value["kind"], cipher, "vector")
            self.assertEqual(plain.hex(), value["plain"])
            with self.assertRaises(Damaged):
                open_block(key, tag, value["kind"], _changed(cipher, 0), "vector")

    def test_seals(self) -> None:
        for value in self.values["seal"]:
            key, ad, sealed = (bytes.fromhex(value[name]) for name in ("key", "ad", "sealed"))
            plain = open_seal(key, value["label"], ad, sealed, "vector")
            self.assertEqual(plain.hex(), value["plain"])
            with self.assertRaises(WrongKey):
                open_seal(_changed(key, 0), value["label"], ad, sealed, "vector")
            with self.assertRaises(WrongKey):
                open_seal(key, value["label"], ad + b"x", sealed, "vector")
            with self.assertRaises(Damaged):
                open_seal(key, value["label"], ad, _changed(sealed, -1), "vector")

    def test_name_hashes(self) -> None:
        for value in self.values["name_hash"]:
            hashed = name_hash(bytes.fromhex(value["key"]), value["parent"], value["name"].encode())
            self.assertEqual(hashed, int(value["hash"], 16))

    def test_passphrases(self) -> None:
        for value in self.values["passphrase"]:
            salt = bytes.fromhex(value["salt"])
            kdf = Kdf(b"", value["memory_kib"], value["passes"], value["lanes"], salt)
            self.assertEqual(kdf.secret(value["passphrase"].encode()).hex(), value["secret"])


def _changed(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


if __name__ == "__main__":
    unittest.main()
