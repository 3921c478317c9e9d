//! What the check says of files whose items contradict each other: each contradiction is found, and
//! the file is named by its path.

use std::ops::ControlFlow;

use strongroom::base::InodeNo;
use strongroom::pool::{self, Txn};
use strongroom::tree::Key;
use strongroom::verify::{Defect, Report};
use strongroom::volume::FileKind;
use strongroom::volume::items::{
    Dirent, ExtentItem, InodeItem, NEXT_INODE_KEY, ROOT_INODE, dirent_key, extent_key, inode_key,
    kind, orphan_key,
};

use crate::check::{broken, some_extent};

fn edited(edit: impl Fn(&mut Txn<'_>, &pool::Head)) -> Report {
    broken(|_, head| {
        head.transact(|txn| {
            edit(txn, head);
            Ok::<_, pool::PoolError>(())
        })
        .unwrap();
    })
}

/// Inode number and item of the file named `b`.
fn file_b(head: &pool::Head) -> (InodeNo, InodeItem) {
    let entry = entries(head).into_iter().find(|(_, entry)| entry.name == b"b").unwrap().1;
    let item = head.view().get(inode_key(entry.ino)).unwrap().unwrap();
    (entry.ino, InodeItem::decode(&item).unwrap())
}

fn entries(head: &pool::Head) -> Vec<(Key, Dirent)> {
    let mut found = Vec::new();
    let (first, last) = (dirent_key(ROOT_INODE, 0), dirent_key(ROOT_INODE, u64::MAX));
    head.view()
        .range(first, last, &mut |key, value| {
            found.push((key, Dirent::decode(value).unwrap()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// That one finding of a file says `what`, and names `path`.
fn assert_found(report: &Report, path: &str, what: &str) {
    let found = report.findings.iter().any(|finding| {
        let named = finding.hits.iter().any(|hit| {
            hit.file.as_ref().and_then(|file| file.path.as_deref()) == Some(path.as_bytes())
        });
        let said = matches!(&finding.defect, Defect::File { why, .. } if why.contains(what));
        named && said
    });
    assert!(found, "{path}: {what}: {:#?}", report.findings);
}

#[test]
fn wrong_counts_of_a_file_are_found_and_the_file_is_named() {
    let changed = |change: &dyn Fn(&mut InodeItem)| {
        edited(|txn, head| {
            let (ino, mut item) = file_b(head);
            change(&mut item);
            txn.put(inode_key(ino), item.encode());
        })
    };
    assert_found(&changed(&|item| item.nlink = 2), "/b", "2 links are stated, 1 were counted");
    assert_found(&changed(&|item| item.blocks += 1), "/b", "blocks are stated");
    assert_found(&changed(&|item| item.size = 4096), "/b", "goes on behind it");
    assert_found(&changed(&|item| item.flags = 1), "/b", "extended attributes");
}

#[test]
fn names_and_inodes_that_miss_each_other_are_found() {
    let report = edited(|txn, head| {
        let (ino, _) = file_b(head);
        txn.remove(inode_key(ino));
    });
    assert_found(&report, "/", "which is not there");
    assert_found(&report, "/b", "is not there itself");

    let report = edited(|txn, head| {
        let (key, _) = entries(head).into_iter().find(|(_, entry)| entry.name == b"b").unwrap();
        txn.remove(key);
    });
    let why = "it has no name, and is not marked to be freed";
    let nameless = report
        .findings
        .iter()
        .any(|f| matches!(&f.defect, Defect::File { why: said, .. } if said.contains(why)));
    assert!(nameless, "{:#?}", report.findings);
    assert_found(&report, "/", "entries are stated");

    let report = edited(|txn, head| {
        let (ino, _) = file_b(head);
        txn.put(orphan_key(ino), Vec::new());
    });
    assert_found(&report, "/b", "it has a name, and is marked to be freed");

    let report = edited(|txn, head| {
        let (key, entry) = entries(head).into_iter().find(|(_, e)| e.name == b"b").unwrap();
        txn.put(key, Dirent { kind: FileKind::Directory, ..entry }.encode());
    });
    assert_found(&report, "/", "another kind");
}

#[test]
fn an_entry_that_no_lookup_finds_is_found() {
    let report = edited(|txn, head| {
        let (key, entry) = entries(head).into_iter().find(|(_, e)| e.name == b"b").unwrap();
        txn.remove(key);
        txn.put(Key { offset: key.offset ^ (1 << 40), ..key }, entry.encode());
    });
    assert_found(&report, "/", "its entry 'b' cannot be looked up");
}

#[test]
fn extents_that_overlap_are_found() {
    let report = edited(|txn, head| {
        let (key, value) = some_extent(head);
        let extent = ExtentItem::decode(&value).unwrap();
        assert!(extent.blocks() > 1);
        let inside = extent.slice(1, 2).encode();
        txn.put(extent_key(InodeNo(key.object), key.offset / 4096 + 1), inside);
    });
    let overlaps = |d: &Defect| matches!(d, Defect::File { why, .. } if why.contains("overlap"));
    assert!(report.findings.iter().any(|f| overlaps(&f.defect)), "{:#?}", report.findings);
}

#[test]
fn an_inode_number_that_would_be_given_out_again_is_found() {
    let report = edited(|txn, _| txn.put(NEXT_INODE_KEY, 16_u64.to_le_bytes().to_vec()));
    assert_found(&report, "/b", "it would be given out again");
}

#[test]
fn a_torn_attribute_is_found() {
    let report = edited(|txn, head| {
        let (ino, mut item) = file_b(head);
        let name = b"user.x";
        let base = head.name_hash(ino.0, name) & !0xffff;
        let mut value = 4000_u32.to_le_bytes().to_vec();
        value.push(name.len() as u8);
        value.extend_from_slice(name);
        value.resize(value.len() + 3072, 7);
        txn.put(Key { object: ino.0, kind: kind::XATTR, offset: base }, value);
        item.flags |= 1;
        txn.put(inode_key(ino), item.encode());
    });
    assert_found(&report, "/b", "an extended attribute is not whole");
}

#[test]
fn directories_in_a_circle_are_found() {
    let dir = |number: u64, parent: u64| {
        let fresh = InodeItem::new(0o040_755, 0, 0, Default::default());
        let item = InodeItem { nlink: 3, parent, entries: 1, ..fresh };
        (inode_key(InodeNo(number)), item.encode())
    };
    let entry = |head: &pool::Head, parent: u64, child: u64| {
        let hash = head.name_hash(parent, b"d");
        let cookie = strongroom::volume::items::first_cookie(hash);
        let entry = Dirent { ino: InodeNo(child), kind: FileKind::Directory, name: b"d".to_vec() };
        (dirent_key(InodeNo(parent), cookie), entry.encode())
    };
    let report = edited(|txn, head| {
        let next = 1_000_000_u64;
        txn.put(NEXT_INODE_KEY, next.to_le_bytes().to_vec());
        for (key, value) in [dir(900, 901), dir(901, 900)] {
            txn.put(key, value);
        }
        for (key, value) in [entry(head, 900, 901), entry(head, 901, 900)] {
            txn.put(key, value);
        }
    });
    let circle = |d: &Defect| matches!(d, Defect::File { why, .. } if why.contains("circle"));
    assert!(report.findings.iter().any(|f| circle(&f.defect)), "{:#?}", report.findings);
}
