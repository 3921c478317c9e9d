//! Copying out of what is left: which state of a pool serves, which stands in for another, and what
//! is said of those that are gone.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use strongroom::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use strongroom::base::{ClusterId, Generation, Timestamp};
use strongroom::catalog::{
    Catalog, ClusterRecord, Header, NewCluster, SnapshotKind, Target, Tombstone,
};
use strongroom::crypto::{self, HeaderKeys};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::superblock::{self, COPIES, COPY_BYTES, Copy, SLOTS, copy_offset};
use strongroom::pool::{CutPlan, Remains};
use strongroom::sys::new_tree::NewDirectory;
use strongroom::tree::{Key, Step};
use strongroom::verify::salvage::{Fate, NoKey, Report, Survey, Wanted};
use strongroom::verify::xray;
use strongroom::volume::{Volume, VolumeOptions};

use crate::corrupt::sample::{Sample, Secrets, key_of as key_of_sample};
use crate::pools::{
    CLUSTER, engine_key, header_keys, mounted, new_device, new_snapshot, open, wrap, write_file,
};
use crate::salvage::{filled, remains, states};

/// The newest state of each of these, the newest first.
fn of_states(sims: &[&Arc<SimDevice>]) -> Remains {
    let states = sims.iter().map(|sim| states(sim).swap_remove(0)).collect();
    Remains { states, lost_slots: Vec::new(), later: None }
}

/// Copies the heads to `to`; without it, says what could be copied. Customer keys are refused.
fn copied(remains: Remains, to: Option<&Path>) -> Report {
    let destination = to.map(|to| NewDirectory::begin(to).unwrap());
    let mut refuse = |_: &str, _, _: &HeaderKeys| Err(NoKey::Refused("disabled".to_owned()));
    Survey::of(remains).copy(&Wanted::default(), destination.as_ref(), &mut refuse)
}

/// What is said without a copy.
fn told(remains: Remains) -> Report {
    copied(remains, None)
}

fn has_note(report: &Report, words: &str) -> bool {
    report.notes.iter().any(|note| note.contains(words))
}

fn has_lost(report: &Report, words: &str) -> bool {
    report.lost.iter().any(|loss| loss.what.contains(words))
}

fn fates(report: &Report) -> Vec<Fate> {
    report.results.iter().map(|tree| tree.state).collect()
}

fn add_file(sim: &Arc<SimDevice>, name: &str) {
    let catalog = open(sim);
    let (head, volume) = mounted(&catalog);
    write_file(&volume, name, 7);
    catalog.close_head(&head).unwrap();
    drop(volume);
    catalog.pool().close().unwrap();
}

/// Damages a node of a cluster's head: the root is the first.
fn break_node(sim: &Arc<SimDevice>, cluster: ClusterId, secrets: &Secrets, number: usize) {
    let pool = states(sim).swap_remove(0);
    let catalog = Catalog::open(Arc::clone(&pool)).unwrap();
    let header = catalog.header(Target::Cluster(cluster)).unwrap();
    let key = key_of_sample(secrets, &pool, cluster, &header.keys).unwrap();
    let context = catalog.root_context(cluster, &header);
    let (view, _) = pool.open_view(&key, &context, header.sealed_root.as_ref().unwrap()).unwrap();
    let mut nodes = Vec::new();
    view.tree().walk(pool.nodes(), &mut |step| {
        if let Step::Node { pointer: Some(pointer), .. } = step {
            nodes.push(pointer.runs().map(|run| run.addr.get()).collect::<Vec<_>>());
        }
        ControlFlow::Continue(())
    });
    for addr in &nodes[number] {
        sim.corrupt(addr * BLOCK_SIZE_U64 + 9, 1);
    }
}

fn break_root(sim: &Arc<SimDevice>) {
    break_node(sim, CLUSTER, &Secrets::new(), 0);
}

type Change = fn(&mut [u8]);

/// Changes both copies of a slot, with a checksum that fits.
fn change_slot(sim: &Arc<SimDevice>, slot: u8, change: Change) {
    for copy in 0..COPIES {
        let mut bytes = vec![0; COPY_BYTES];
        sim.read(copy_offset(slot, copy), &mut bytes).unwrap();
        change(&mut bytes);
        let end = bytes.len() - 4;
        let sum = strongroom::base::crc::crc32c(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&sum);
        sim.write(copy_offset(slot, copy), &bytes).unwrap();
    }
    sim.flush().unwrap();
}

#[test]
fn a_slot_of_which_no_copy_can_be_used_is_a_loss_whatever_became_of_it() {
    let sim = filled();
    assert!(!told(remains(&sim)).has_lost());
    // Overwritten, of another version, and whole but for its seal.
    let ways: [Change; 3] = [|copy| copy.fill(0), |copy| copy[8] = 9, |copy| copy[200] ^= 1];
    for slot in 0..SLOTS {
        for way in ways {
            let sick = sim.copy();
            change_slot(&sick, slot, way);
            let report = told(remains(&sick));
            assert!(report.has_lost());
            let named = format!("neither copy of superblock slot {slot} can be used");
            assert!(has_lost(&report, &named), "{:#?}", report.lost);
        }
    }
}

#[test]
fn a_later_state_that_the_space_ring_shows_is_a_loss() {
    let sim = filled();
    let before = sim.copy();
    ["x", "y", "z"].into_iter().for_each(|name| add_file(&sim, name));
    let mut copy = vec![0; COPY_BYTES];
    for (slot, number) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        before.read(copy_offset(slot, number), &mut copy).unwrap();
        sim.write(copy_offset(slot, number), &copy).unwrap();
    }
    sim.flush().unwrap();
    let report = told(remains(&sim));
    assert!(has_lost(&report, "the space ring shows checkpoint"), "{:#?}", report.lost);
    assert!(!has_lost(&told(remains(&before)), "the space ring"));
}

#[test]
fn an_older_state_that_stands_in_for_a_head_is_said_and_what_is_newer_lost() {
    let old = filled();
    let new = old.copy();
    add_file(&new, "later");
    break_root(&new);
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("d");
    let report = copied(of_states(&[&new, &old]), Some(&to));
    assert_eq!(fates(&report), [Fate::Copied]);
    assert!(report.has_lost());
    assert!(has_lost(&report, "what was written after it"), "{:#?}", report.lost);
    assert!(has_note(&report, "as an older state of the pool has it"));
    let a = fs::read(to.join("clusters/db/a")).unwrap();
    assert!(a == vec![1; 40 * BLOCK_SIZE]);
    assert!(!to.join("clusters/db/later").exists());
}

/// A cluster of two files, of a snapshot with the first, and of a head that cannot be read.
fn with_a_broken_head_and_a_snapshot() -> Arc<SimDevice> {
    let sim = new_device();
    let catalog = open(&sim);
    let header = Header::empty(header_keys(&catalog));
    create(&catalog, header);
    let (head, volume) = mounted(&catalog);
    write_file(&volume, "a", 1);
    volume.sync().unwrap();
    catalog.take_snapshots(&[new_snapshot(77, CLUSTER, SnapshotKind::OnDemand)]).unwrap();
    write_file(&volume, "b", 2);
    catalog.close_head(&head).unwrap();
    drop(volume);
    catalog.pool().close().unwrap();
    break_root(&sim);
    sim
}

fn create(catalog: &Catalog, header: Header) {
    let (name, created_at) = ("db".parse().unwrap(), Timestamp::from_secs(1));
    catalog.create_cluster(NewCluster { id: CLUSTER, name, created_at, header }).unwrap();
}

#[test]
fn an_older_state_in_which_a_cluster_was_empty_or_locked_does_not_end_the_search() {
    let new = with_a_broken_head_and_a_snapshot();
    let empty = new_device();
    let catalog = open(&empty);
    create(&catalog, Header::empty(header_keys(&catalog)));
    catalog.pool().close().unwrap();
    let locked = new_device();
    let catalog = open(&locked);
    let mut keys = header_keys(&catalog);
    let secret = wrap(&mut keys);
    let (pool, ck_id) = (catalog.pool().id(), keys.ck_id);
    let key = crypto::cluster_key(&secret, &keys.salt, &pool, &CLUSTER, ck_id);
    create(&catalog, Header::empty(keys));
    let head = catalog.open_head(&"db".parse().unwrap(), key).unwrap();
    let options = VolumeOptions { background: false, ..VolumeOptions::default() };
    write_file(&Volume::open_head(Arc::clone(&head), options).unwrap(), "a", 1);
    catalog.close_head(&head).unwrap();
    catalog.pool().close().unwrap();
    for (old, alone) in [(&empty, Fate::Empty), (&locked, Fate::Refused)] {
        assert_eq!(fates(&told(of_states(&[old]))), [alone]);
        let place = tempfile::tempdir().unwrap();
        let to = place.path().join("d");
        let report = copied(of_states(&[&new, old]), Some(&to));
        assert_eq!(fates(&report), [Fate::Unreadable, Fate::Copied], "{:#?}", report.results);
        let id = report.results[1].snapshot_id.as_ref().unwrap();
        assert!(to.join("snapshots").join(id).join("a").exists());
    }
}

/// Puts something else in the place of the one cluster's record.
fn rewrite_record(catalog: &Catalog, rewritten: impl FnOnce(&[u8]) -> Vec<u8>) {
    const CLUSTER_KIND: u8 = 0x21;
    let edit = CutPlan {
        edit: Some(Box::new(|txn, _| {
            let mut found = Vec::new();
            txn.range(Key::MIN, Key::MAX, &mut |key, value| {
                if key.kind == CLUSTER_KIND {
                    found.push((key, value.to_vec()));
                }
                ControlFlow::Continue(())
            })?;
            assert_eq!(found.len(), 1);
            txn.put(found[0].0, &rewritten(&found[0].1)).map(|_| ())
        })),
        ..CutPlan::default()
    };
    catalog.pool().checkpoint(edit).unwrap();
}

#[test]
fn of_a_cluster_that_has_a_log_alone_what_was_acknowledged_is_copied() {
    let sim = new_device();
    let catalog = open(&sim);
    create(&catalog, Header::empty(header_keys(&catalog)));
    let (_head, volume) = mounted(&catalog);
    write_file(&volume, "a", 1);
    volume.sync().unwrap();
    let crashed = sim.copy();
    let catalog = open(&crashed);
    rewrite_record(&catalog, |bytes| {
        let mut record = ClusterRecord::decode(&bytes[4..]).unwrap();
        record.header.sealed_root = None;
        let bytes = record.encode();
        [&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat()
    });
    catalog.pool().close().unwrap();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("d");
    let report = copied(remains(&crashed), Some(&to));
    assert_eq!(fates(&report), [Fate::Copied], "{:#?}", report.results);
    assert!(fs::read(to.join("clusters/db/a")).unwrap() == vec![1; 40 * BLOCK_SIZE]);
}

#[test]
fn a_snapshot_whose_key_is_not_usable_does_not_end_the_search_for_one_that_stands_in() {
    let sample = Sample::new(4, false);
    let of = &sample.clusters[1];
    let sick = sample.sim.copy();
    break_node(&sick, of.id, &sample.secrets, 0);
    let survey = Survey::of(remains(&sick));
    let newest = Arc::clone(survey.newest().unwrap());
    let wanted = Wanted { clusters: vec![of.name.clone()], snapshots: Vec::new() };
    let mut refused = 0;
    let report = survey.copy(&wanted, None, &mut |owner, cluster, keys| {
        let key = key_of_sample(&sample.secrets, &newest, cluster, keys).unwrap();
        if owner.starts_with("snapshot") && refused < 2 {
            refused += 1;
            return Err(NoKey::Refused("disabled".to_owned()));
        }
        Ok(key)
    });
    assert_eq!(report.refused().count(), 2, "{:#?}", report.results);
    assert_eq!(report.results.last().map(|tree| tree.state), Some(Fate::Readable));
}

#[test]
fn a_list_tells_of_nodes_that_cannot_be_read() {
    let sim = filled();
    let catalog = open(&sim);
    let (head, volume) = mounted(&catalog);
    // More than one node holds.
    (0..20).for_each(|n| write_file(&volume, &format!("f{n}"), 7));
    catalog.close_head(&head).unwrap();
    drop(volume);
    catalog.pool().close().unwrap();
    assert!(!told(remains(&sim)).has_lost());
    break_node(&sim, CLUSTER, &Secrets::new(), 1);
    let report = told(of_states(&[&sim]));
    assert_eq!(fates(&report), [Fate::Readable]);
    assert!(report.has_lost() && has_lost(&report, "a tree node cannot be read"), "{report:#?}");
}

/// Damages the root of the newest state's catalog.
fn break_catalog(sim: &Arc<SimDevice>) {
    let root = xray::nodes(&states(sim)[0])[0].clone();
    for addr in [root.addr, root.second.unwrap()] {
        sim.corrupt(addr * BLOCK_SIZE_U64 + 5, 1);
    }
}

#[test]
fn deleted_keys_that_cannot_be_read_are_not_taken_for_none() {
    let sim = filled();
    let catalog = open(&sim);
    let deleted_at = Timestamp::from_secs(3);
    catalog.set_tombstone(Tombstone { fingerprint: [8; 16], deleted_at }, true).unwrap();
    catalog.pool().close().unwrap();
    drop(catalog);
    let remembers =
        |remains| Survey::of(remains).tombstones().iter().any(|t| t.fingerprint == [8; 16]);
    let words = "that the pool remembers of deleted keys";
    assert!(remembers(remains(&sim)));
    assert!(!has_note(&told(remains(&sim)), words));
    let sick = sim.copy();
    break_catalog(&sick);
    assert!(!remembers(of_states(&[&sick])));
    assert!(has_note(&told(of_states(&[&sick])), words));
    // The checkpoint before may know, and may not know all.
    assert!(remembers(of_states(&[&sick, &sim])));
    assert!(has_note(&told(of_states(&[&sick, &sim])), words));
    // What came back from a backup since is not deleted, whatever an older state says.
    let back = sim.copy();
    let catalog = open(&back);
    catalog.set_tombstone(Tombstone { fingerprint: [8; 16], deleted_at }, false).unwrap();
    catalog.pool().close().unwrap();
    assert!(!remembers(of_states(&[&back, &sim])));
}

#[test]
fn a_cluster_whose_record_is_lost_is_copied_from_its_newest_snapshot() {
    let sim = with_a_broken_head_and_a_snapshot();
    let catalog = open(&sim);
    rewrite_record(&catalog, |_| b"nothing that can be decoded".to_vec());
    catalog.pool().close().unwrap();
    let place = tempfile::tempdir().unwrap();
    let to = place.path().join("d");
    let survey = Survey::of(of_states(&[&sim]));
    assert!(survey.has_cluster(&"db".parse().unwrap()));
    assert!(!survey.has_cluster(&"other".parse().unwrap()));
    let report = copied(of_states(&[&sim]), Some(&to));
    assert!(report.has_lost());
    assert!(has_note(&report, "its head is not in what is left of the catalog"));
    assert_eq!(fates(&report), [Fate::Copied], "{:#?}", report.results);
    let snapshot = to.join("snapshots").join(report.results[0].snapshot_id.as_ref().unwrap());
    assert!(fs::read(snapshot.join("a")).unwrap() == vec![1; 40 * BLOCK_SIZE]);
}

#[test]
fn behind_a_state_that_takes_keys_away_no_older_one_is_opened() {
    let sim = filled();
    add_file(&sim, "later");
    assert_eq!(states(&sim).len(), 2);
    let key = crypto::slot_key(&engine_key(), None);
    let read = |slot| {
        let mut bytes = vec![0; COPY_BYTES];
        sim.read(copy_offset(slot, 0), &mut bytes).unwrap();
        Copy::decode(&bytes).unwrap()
    };
    let newest = (0..SLOTS).map(read).max_by_key(|copy| copy.clear.sequence).unwrap();
    let mut payload = newest.open(&key).unwrap();
    payload.shred_pending = Generation(3);
    for copy in 0..COPIES {
        let clear = superblock::Clear { copy, ..newest.clear.clone() };
        let bytes = superblock::encode(&clear, &payload, &key);
        sim.write(copy_offset(clear.index, copy), &bytes).unwrap();
    }
    sim.flush().unwrap();
    assert_eq!(states(&sim).len(), 1);
}
