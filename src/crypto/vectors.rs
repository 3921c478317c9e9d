//! Golden values: the construction against published vectors, and against values that another
//! implementation made (tests/data/vectors), so that the format cannot drift unseen.

use serde_json::Value;

use crate::base::{ClusterId, PoolId};
use crate::crypto::seal::seal_with;
use crate::crypto::xts::Xts;
use crate::crypto::{
    BlockKey, BlockKind, ClusterSecret, EngineKey, HeaderSalt, KdfParams, KeyringSecret,
    LogOuterKey, LogSeed, NameHashKey, RootSecret, Tag, anchor_key, cluster_key, decrypt_block,
    derive, encrypt_block, hmac_sha256, kek, keyring_kek, log_inner_key, name_hash, open,
    passphrase_secret, sha256, slot_key,
};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/data/vectors/crypto.json")).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "{text}");
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("field {field} in {value}"))
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    match text(value, field).strip_prefix("serial(") {
        Some(rest) => (0..rest.split(',').next().unwrap().parse::<u32>().unwrap())
            .map(|i| (i % 256) as u8)
            .collect(),
        None => unhex(text(value, field)),
    }
}

fn array<const N: usize>(value: &Value, field: &str) -> [u8; N] {
    bytes(value, field).try_into().unwrap()
}

#[test]
fn xts_gives_the_vectors_of_ieee_1619_2007_for_aes_256() {
    let all: Value =
        serde_json::from_str(include_str!("../../tests/data/vectors/ieee1619_xts.json")).unwrap();
    let plain: Vec<u8> = (0..512u32).map(|i| (i % 256) as u8).collect();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 5);
    for vector in all {
        let xts = Xts::new(&array(vector, "data_key"), &array(vector, "tweak_key"));
        let unit = u128::from(vector["data_unit"].as_u64().unwrap());
        let mut buf = plain.clone();
        xts.encrypt(unit, &mut buf);
        assert_eq!(buf, bytes(vector, "cipher"), "{}", vector["name"]);
        xts.decrypt(unit, &mut buf);
        assert_eq!(buf, plain, "{}", vector["name"]);
    }
}

#[test]
fn hkdf_gives_the_vectors_of_rfc_5869_for_sha_256() {
    let mut out = [0; 42];
    let (ikm, salt) = ([0x0b; 22], unhex("000102030405060708090a0b0c"));
    let info = unhex("f0f1f2f3f4f5f6f7f8f9");
    crate::crypto::derive::expand(&ikm, &salt, &[&info[..3], &info[3..]], &mut out);
    let case_1 =
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(out[..], unhex(case_1));
    crate::crypto::derive::expand(&ikm, b"", &[], &mut out);
    let case_3 =
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    assert_eq!(out[..], unhex(case_3));
}

#[test]
fn gcm_siv_gives_vectors_of_rfc_8452_for_aes_256() {
    use aes_gcm_siv::aead::AeadInOut;
    use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce};
    let (mut key, mut nonce) = ([0; 32], Nonce::default());
    (key[0], nonce[0]) = (1, 3);
    let cipher = Aes256GcmSiv::new(&key.into());
    // Appendix C.2: the empty plaintext, then 01 and seven zeros.
    let cases = [
        ("", "07f5f4169bbf55a8400cd47ea6fd400f"),
        ("0100000000000000", "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28"),
    ];
    for (plain, sealed) in cases {
        let mut buf = unhex(plain);
        let tag = cipher.encrypt_inout_detached(&nonce, b"", buf.as_mut_slice().into()).unwrap();
        buf.extend_from_slice(&tag);
        assert_eq!(buf, unhex(sealed));
    }
}

#[test]
fn derivations_give_the_golden_values() {
    let all = vectors();
    for v in all["derive"].as_array().unwrap() {
        let (ikm, salt) = (bytes(v, "ikm"), bytes(v, "salt"));
        let out = derive(&ikm, &salt, text(v, "label"), &bytes(v, "suffix"));
        assert_eq!(out[..], bytes(v, "out"), "{v}");
    }
    let k = &all["keys"];
    let (pool, cluster) = (PoolId(array(k, "pool")), ClusterId(array(k, "cluster")));
    let engine = EngineKey::from_bytes(&array(k, "engine_key"));
    let ck_id = u32::try_from(k["ck_id"].as_u64().unwrap()).unwrap();
    let secret = ClusterSecret::from_bytes(&array(k, "cluster_secret"));
    let salt = HeaderSalt(array(k, "header_salt"));
    let seed = LogSeed::from_bytes(&array(k, "log_seed"));
    let outer = LogOuterKey::from_bytes(&array(k, "log_outer_key"));
    let keyring = KeyringSecret::from_bytes(&array(k, "keyring_secret"));
    let root = RootSecret::from_bytes(&array(k, "root_secret"));
    assert_eq!(*kek(&root, &pool), array(k, "kek"));
    assert_eq!(slot_key(&engine, None).bytes(), &array(k, "slot_key"));
    let epoch = array(k, "epoch_key");
    assert_eq!(slot_key(&engine, Some(&epoch)).bytes(), &array(k, "slot_key_with_epoch"));
    let ck = cluster_key(&secret, &salt, &pool, &cluster, ck_id);
    assert_eq!(ck.bytes(), &array(k, "cluster_key"));
    assert_eq!(log_inner_key(&seed, &outer, &cluster).bytes(), &array(k, "log_inner_key"));
    assert_eq!(*anchor_key(&engine), array(k, "anchor_key"));
    assert_eq!(*keyring_kek(&keyring), array(k, "keyring_kek"));
    assert_eq!(hmac_sha256(&anchor_key(&engine), b"abc"), array(k, "anchor_mac_of_abc"));
}

#[test]
fn blocks_give_the_golden_values() {
    for v in vectors()["block"].as_array().unwrap() {
        let key = BlockKey(array(v, "key"));
        let kind = match text(v, "kind") {
            "data" => BlockKind::Data,
            "node" => BlockKind::Node,
            "map" => BlockKind::Map,
            "crc" => BlockKind::Crc,
            other => panic!("{other}"),
        };
        let mut buf = bytes(v, "plain");
        let tag = encrypt_block(&key, kind, &mut buf);
        assert_eq!(tag, Tag(array(v, "tag")), "{v}");
        match v.get("cipher") {
            Some(_) => assert_eq!(buf, bytes(v, "cipher")),
            None => assert_eq!(sha256(&buf), array(v, "cipher_sha256")),
        }
        decrypt_block(&key, kind, &mut buf, &tag).unwrap();
        assert_eq!(buf, bytes(v, "plain"));
    }
}

#[test]
fn seals_give_the_golden_values() {
    for v in vectors()["seal"].as_array().unwrap() {
        let (key, label, ad) = (array(v, "key"), text(v, "label"), bytes(v, "ad"));
        let sealed = seal_with(&array(v, "n"), &key, label, &ad, &bytes(v, "plain"));
        assert_eq!(sealed, bytes(v, "sealed"), "{v}");
        assert_eq!(open(&key, label, &ad, &sealed).unwrap()[..], bytes(v, "plain"));
    }
}

#[test]
fn names_and_passphrases_give_the_golden_values() {
    let all = vectors();
    for v in all["name_hash"].as_array().unwrap() {
        let key = NameHashKey::from_bytes(&array(v, "key"));
        let hash = name_hash(&key, v["parent"].as_u64().unwrap(), text(v, "name").as_bytes());
        assert_eq!(format!("{hash:016x}"), text(v, "hash"));
    }
    for v in all["passphrase"].as_array().unwrap() {
        let number = |field: &str| u32::try_from(v[field].as_u64().unwrap()).unwrap();
        let params = KdfParams {
            memory_kib: number("memory_kib"),
            passes: number("passes"),
            lanes: number("lanes"),
            salt: array(v, "salt"),
        };
        let secret = passphrase_secret(text(v, "passphrase").as_bytes(), &params).unwrap();
        assert_eq!(secret[..], bytes(v, "secret"));
    }
}
