//! Where keys stand in memory: in the arena while they are in use, nowhere once they are not.

use crate::base::ClusterId;
use crate::catalog::Target;
use crate::keys::root_secret;
use crate::service::tests::world::{World, name};
use crate::sys::heap::erase_what_this_thread_frees;
use crate::sys::memory_scan::{Hit, Needle};

fn outside_of_the_arena(needle: &Needle) -> Vec<Hit> {
    needle.hits().into_iter().filter(|hit| !hit.in_arena).collect()
}

fn cluster_id(w: &World, cluster: &str) -> ClusterId {
    w.service.catalog().cluster(&name(cluster)).unwrap().id
}

#[test]
fn keys_stand_in_the_arena_and_nowhere_else() {
    // As the daemon's first thread and those of its control socket do.
    erase_what_this_thread_frees();
    let w = World::new();
    let key = w.local_key("k1");
    w.create("db", Some(&key));
    w.create("open", None);
    for cluster in ["db", "open"] {
        w.mount(cluster);
        w.write(&format!("/mnt/{cluster}"), "f", b"data");
        w.snap(cluster);
    }
    let root = root_secret::read_secret_file(&w.service.config().root_key()).unwrap();
    let root_needle = Needle::new(root.bytes());
    drop(root);
    let engine = Needle::new(w.service.engine_key.bytes());
    let mut cluster_keys = Vec::new();
    let mut plain_secrets = Vec::new();
    for cluster in ["db", "open"] {
        let id = cluster_id(&w, cluster);
        let opened = w.service.open_header(Target::Cluster(id), id, "test").unwrap();
        cluster_keys.push(Needle::new(opened.key.bytes()));
        plain_secrets.extend(opened.header.keys.plain.map(|w| Needle::new(w.bytes())));
    }
    assert!(!engine.hits().is_empty(), "what is in use is found");
    assert_eq!(outside_of_the_arena(&engine), []);
    assert_eq!(root_needle.hits(), [], "the root secret is needed for opening only");
    for key in &cluster_keys {
        assert!(!key.hits().is_empty(), "a mounted cluster has its key");
        assert_eq!(outside_of_the_arena(key), []);
    }
    // Changes of the header, a checkpoint of both heads, and their end.
    w.service.set_key(&name("open"), Some(&key), true).unwrap();
    for cluster in ["db", "open"] {
        w.write(&format!("/mnt/{cluster}"), "f", b"more");
        w.umount(cluster);
    }
    for key in &cluster_keys {
        assert_eq!(key.hits(), [], "no mount, no key");
    }
    // W of a cluster without a customer key stood in its header, so in nodes of the catalog: they
    // are overwritten when they go.
    assert_eq!(plain_secrets.len(), 1);
    for secret in &plain_secrets {
        assert_eq!(outside_of_the_arena(secret), []);
    }
}
