//! Readers of what the machine and its users hand over: arguments, the kernel's table of mounts, ACLs
//! of files, the record of mounts.

use crate::{cli, service, sys, volume};

/// The first byte says which.
pub(super) fn run(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    match which % 4 {
        0 => cli::fuzz(rest),
        1 => mount_table(rest),
        2 => volume::fuzz_acl(rest),
        _ => service::fuzz_records(rest),
    }
}

fn mount_table(text: &[u8]) {
    for mount in sys::mount_table::parse(text) {
        let held = mount.root.as_os_str().len() + mount.mount_point.as_os_str().len();
        assert!(held <= text.len(), "what is unescaped is no longer than it was");
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 9] = [
        b"\0snapshot\0create\0db\0--retain\x007d\0--description\0x\0--json",
        b"\0restore\0snap-0123456789abcdef\0--to-cluster\0new",
        b"\0key\0delete\0k1\0--waiting-period\x0030d\0--yes",
        b"\0--pool\0/p\0init\0--size\x0010GiB",
        b"\0db\0/mnt\0-o\0rw,nofail,pool=/p,key_wait",
        b"\0db\0/mnt\0-fv\0-t\0fuse.strongroom\0-onoatime",
        b"\x0129 1 0:26 / /a\\040b rw,nosuid shared:9 master:1 - fuse.strongroom db rw,user_id=0\n",
        b"\x0130 29 254:0 /r / rw - ext4 /dev/vda rw\n\nno line\n31 1 0:27 / /c rw - proc",
        b"\x02\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x04\0\x05\0\0\0\x04\0\x05\0\xff\xff\xff\xff\
          \x10\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
    ];
    let records = [&[3][..], &service::fuzz_records_seed()].concat();
    texts.iter().map(|text| text.to_vec()).chain([records]).collect()
}
