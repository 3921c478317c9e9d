//! The recovery key: a root secret of 256 bits that people can print, read out and type.
//!
//! 52 characters of Crockford's base 32 (no I, L, O, U), in 13 groups of four, each followed by a
//! check character over GF(32): any one wrong character, any two neighbours swapped within a
//! group, and any two groups swapped are found, and the group is named. So a typing error is told
//! apart from a key of another pool before anything is tried.

use zeroize::{Zeroize, Zeroizing};

use crate::crypto::RootSecret;
use crate::keys::error::KeysError;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUPS: usize = 13;
const DATA_PER_GROUP: usize = 4;
const GROUP: usize = DATA_PER_GROUP + 1;
/// Characters in a recovery key, without what stands between groups.
pub const RECOVERY_CHARS: usize = GROUPS * GROUP;

/// Product in GF(32), modulo x^5 + x^2 + 1.
const fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a <<= 1;
        if a & 0x20 != 0 {
            a ^= 0x25;
        }
        b >>= 1;
    }
    product
}

/// Check character of a group: a weighted sum whose weights are the powers of a generator, and the
/// group's number, so that no group passes in another's place.
fn check(group: usize, data: &[u8]) -> u8 {
    let mut sum = (group & 0x1f) as u8;
    let mut weight = 2;
    for value in data {
        sum ^= multiply(*value, weight);
        weight = multiply(weight, 2);
    }
    sum
}

fn value_of(character: char) -> Result<u8, KeysError> {
    let upper = match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    ALPHABET
        .iter()
        .position(|c| char::from(*c) == upper)
        .map(|p| p as u8)
        .ok_or(KeysError::RecoveryCharacter(character))
}

/// The key as it is printed: `XXXXC-XXXXC-...`, 13 groups.
#[must_use]
pub fn format_recovery_key(secret: &RootSecret) -> Zeroizing<String> {
    let mut values = Zeroizing::new([0u8; GROUPS * DATA_PER_GROUP]);
    for (i, value) in values.iter_mut().enumerate() {
        for bit in 0..5 {
            let at = i * 5 + bit;
            let set = at < 256 && secret.bytes()[at / 8] >> (7 - at % 8) & 1 == 1;
            *value = *value << 1 | u8::from(set);
        }
    }
    let mut text = Zeroizing::new(String::with_capacity(RECOVERY_CHARS + GROUPS));
    for (g, data) in values.chunks_exact(DATA_PER_GROUP).enumerate() {
        if g > 0 {
            text.push('-');
        }
        for value in data.iter().copied().chain([check(g, data)]) {
            text.push(char::from(ALPHABET[usize::from(value)]));
        }
    }
    text
}

/// The key that `text` spells. Case, spaces, line ends and dashes do not matter, nor do O for 0
/// and I or L for 1. Lines that begin with `#` are skipped.
///
/// # Errors
/// [`KeysError::RecoveryCharacter`], [`KeysError::RecoveryLength`], [`KeysError::RecoveryTypo`]
/// naming the first group that does not agree with its check character.
pub fn parse_recovery_key(text: &str) -> Result<RootSecret, KeysError> {
    let mut values = Zeroizing::new(Vec::with_capacity(RECOVERY_CHARS));
    let kept = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    for character in kept.flat_map(str::chars) {
        if character.is_whitespace() || matches!(character, '-' | '.' | ':') {
            continue;
        }
        if values.len() > RECOVERY_CHARS {
            break;
        }
        values.push(value_of(character)?);
    }
    if values.len() != RECOVERY_CHARS {
        return Err(KeysError::RecoveryLength { expected: RECOVERY_CHARS, found: values.len() });
    }
    let mut bytes = Zeroizing::new([0u8; 32]);
    for (g, group) in values.chunks_exact(GROUP).enumerate() {
        let (data, given) = group.split_at(DATA_PER_GROUP);
        // The last four bits of the last group are beyond the key and zero.
        let slack = g == GROUPS - 1 && data.last().is_some_and(|v| v & 0x0f != 0);
        if given.first() != Some(&check(g, data)) || slack {
            return Err(KeysError::RecoveryTypo { group: g + 1 });
        }
        for (i, value) in data.iter().enumerate() {
            for bit in 0..5 {
                let at = (g * DATA_PER_GROUP + i) * 5 + bit;
                if at < 256 && value >> (4 - bit) & 1 == 1 {
                    bytes[at / 8] |= 0x80 >> (at % 8);
                }
            }
        }
    }
    let secret = RootSecret::from_bytes(&bytes);
    bytes.zeroize();
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn swap(text: &str, a: usize, b: usize) -> String {
        let mut bytes = text.as_bytes().to_vec();
        bytes.swap(a, b);
        String::from_utf8(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn reads_back_whatever_the_case_and_the_gaps(bytes: [u8; 32]) {
            let text = format_recovery_key(&RootSecret::from_bytes(&bytes));
            prop_assert_eq!(text.len(), RECOVERY_CHARS + GROUPS - 1);
            for form in [
                text.to_string(),
                text.to_ascii_lowercase(),
                text.replace('-', " ").replace('0', "o").replace('1', "l"),
                format!("# a comment\n{}\n", text.replace('-', "\n")),
            ] {
                let back = parse_recovery_key(&form).unwrap();
                prop_assert_eq!(back.bytes(), &bytes);
            }
        }

        #[test]
        fn any_wrong_character_and_any_swap_is_found_and_its_group_named(
            bytes: [u8; 32], at in 0usize..RECOVERY_CHARS, other in 0usize..32
        ) {
            let text = format_recovery_key(&RootSecret::from_bytes(&bytes)).replace('-', "");
            let mut wrong = text.clone().into_bytes();
            if wrong[at] != ALPHABET[other] {
                wrong[at] = ALPHABET[other];
                match parse_recovery_key(std::str::from_utf8(&wrong).unwrap()) {
                    Err(KeysError::RecoveryTypo { group }) => {
                        prop_assert_eq!(group, at / GROUP + 1);
                    }
                    other => prop_assert!(false, "{:?}", other.map(|_| ())),
                }
            }
            if at % GROUP < GROUP - 1 && text.as_bytes()[at] != text.as_bytes()[at + 1] {
                prop_assert!(parse_recovery_key(&swap(&text, at, at + 1)).is_err());
            }
        }

        #[test]
        fn two_groups_swapped_are_found(bytes: [u8; 32], a in 0usize..GROUPS, b in 0usize..GROUPS) {
            prop_assume!(a != b);
            let text = format_recovery_key(&RootSecret::from_bytes(&bytes));
            let mut groups: Vec<&str> = text.split('-').collect();
            groups.swap(a, b);
            prop_assert!(parse_recovery_key(&groups.join("-")).is_err());
        }
    }

    #[test]
    fn what_is_no_recovery_key_says_why() {
        assert!(matches!(
            parse_recovery_key("ABC"),
            Err(KeysError::RecoveryLength { found: 3, .. })
        ));
        assert!(matches!(parse_recovery_key("AU"), Err(KeysError::RecoveryCharacter('U'))));
        assert!(parse_recovery_key(&"0".repeat(1000)).is_err());
    }
}
