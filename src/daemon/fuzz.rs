//! For `src/fuzzing`: what the daemon reads from its helpers, its starter and its settings.

use crate::daemon::config::Given;
use crate::daemon::handshake::Line;
use crate::daemon::helper_wire::{HelperAnswer, HelperRequest};
use crate::daemon::mount_words;

/// Messages of helper processes, framed and not.
pub fn helper(bytes: &[u8]) {
    let framed = [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    for mut input in [bytes, &framed] {
        let mut again = input;
        if let Ok(request) = HelperRequest::receive(&mut input) {
            let mut sent = Vec::new();
            request.send(&mut sent).expect("it fits, as it did");
            assert_eq!(HelperRequest::receive(&mut sent.as_slice()).ok(), Some(request));
        }
        if let Ok(answer) = HelperAnswer::receive(&mut again) {
            let mut sent = Vec::new();
            answer.send(&mut sent).expect("it fits, as it did");
            assert_eq!(HelperAnswer::receive(&mut sent.as_slice()).ok(), Some(answer));
        }
    }
}

/// Settings, a line of a starting daemon, a list of mount options.
pub fn text(text: &str) {
    if let Ok(given) = toml::from_str::<Given>(text) {
        // A group is asked for by name: not the machine's to answer here.
        let _ = Given { admin_group: None, ..given }.settle();
    }
    let _ = Line::parse(text);
    if let Ok((options, _)) = mount_words::of_fstab(text) {
        assert!(mount_words::check(&options.join(",")).is_ok(), "what is kept is known");
    }
}

/// Messages as they are.
#[must_use]
pub fn helper_seeds() -> Vec<Vec<u8>> {
    vec![
        [&[1, 1, 0, 0, 0][..], &[0; 8], &[1, 0, 0, 0], &[7; 12]].concat(),
        vec![2, 0, 0, 0, 0, 9, 0, 0, 0, 1],
        vec![3, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0],
        [&[2, 3][..], &[1; 12], &[5, 0, 0, 0]].concat(),
        b"\x04\x04\0\0\0/mnt".to_vec(),
        b"\x05\x02\0\0\0no".to_vec(),
        vec![6],
    ]
}
