//! Nodes in memory: a page, and for inner nodes the children that have no place on disk yet.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::base::Generation;
use crate::base::cursor::Reader;
use crate::block::Pointer;
use crate::sys::sync::{Mutex, MutexGuard, Rank};
use crate::tree::key::Key;
use crate::tree::page::{NodeDefect, Page, SLOT_BYTES};

/// A node: sorted items at level 0, above that children by the keys that separate them.
#[derive(Clone)]
pub struct Node {
    pub(in crate::tree) page: Page,
    /// Of an inner node, one entry per child: the child in memory where the page has no pointer.
    /// Empty where no child is in memory: in a leaf, in every node as it came from disk.
    live: Vec<Option<Arc<Handle>>>,
}

/// A node in memory that its tree changed, or wrote and has not let go yet. Shared by all trees
/// that hold this version of it.
pub(in crate::tree) struct Handle {
    /// Interval in which the node became what it is. Edits of this interval may change it in
    /// place; for later ones it is frozen.
    pub interval: Generation,
    /// Shared with the cache once written, when it is a leaf.
    pub node: Arc<Node>,
    /// Where it was written; shared with those who must free it.
    pub place: Arc<Place>,
}

/// Where a node of an interval was written: filled once, by the checkpoint of that interval.
pub(in crate::tree) struct Place {
    pointer: OnceLock<Pointer>,
    writing: Mutex<()>,
}

impl Place {
    /// Of a node at this level: the locks of a node and of those below are taken downwards.
    fn new(level: u8) -> Arc<Self> {
        let number = u64::from(u8::MAX - level);
        let writing = Mutex::numbered(Rank::NodeWriting, number, ());
        Arc::new(Self { pointer: OnceLock::new(), writing })
    }
    pub fn pointer(&self) -> Option<&Pointer> {
        self.pointer.get()
    }
    /// Held while the node is written, so that two versions that share it write it once.
    pub fn begin(&self) -> MutexGuard<'_, ()> {
        self.writing.lock()
    }
    /// Fills the place; the first one stays.
    pub fn fill(&self, pointer: Pointer) {
        let filled = self.pointer.set(pointer);
        debug_assert!(filled.is_ok(), "a node is written once");
    }
}

/// The way to a node.
#[derive(Clone)]
pub(in crate::tree) enum Link {
    /// On disk.
    Disk(Pointer),
    /// In memory.
    Live(Arc<Handle>),
}

/// A child as its parent holds it.
pub(in crate::tree) enum Child<'a> {
    Disk(Pointer),
    Live(&'a Arc<Handle>),
}

impl Handle {
    pub fn fresh(interval: Generation, node: Node) -> Arc<Self> {
        let place = Place::new(node.level());
        Arc::new(Self { interval, node: Arc::new(node), place })
    }
    /// The node, if no other tree and no reader holds it.
    pub fn unshared(self: &mut Arc<Self>) -> Option<&mut Node> {
        Arc::get_mut(self).and_then(|handle| Arc::get_mut(&mut handle.node))
    }
    /// The node, if no other tree and no reader holds it, to make another one of it.
    pub fn editable(self: &mut Arc<Self>) -> Option<&mut Node> {
        let handle = Arc::get_mut(self)?;
        if Arc::get_mut(&mut handle.place).is_none() {
            // A reader holds the same node from before `settle` copied it. What is edited now is
            // another node: its place must not be taken for the reader's.
            handle.place = Place::new(handle.node.level());
        }
        Arc::get_mut(&mut handle.node)
    }
}

impl Node {
    pub(in crate::tree) fn new(node_bytes: usize, level: u8) -> Self {
        Self { page: Page::new(node_bytes, level), live: Vec::new() }
    }

    /// The node that `bytes` hold. Any bytes may be given.
    ///
    /// # Errors
    /// [`NodeDefect`], where a writer would not have made them.
    pub(crate) fn decode(bytes: &[u8], node_bytes: usize) -> Result<Self, NodeDefect> {
        let page = Page::decode(bytes, node_bytes)?;
        let node = Self { page, live: Vec::new() };
        if !node.is_leaf() {
            for i in 0..node.count() {
                node.disk_pointer(i).ok_or(NodeDefect::Pointer)?;
            }
        }
        Ok(node)
    }

    /// Height above the leaves, which are level 0.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.page.level()
    }
    /// Number of items, or of children.
    #[must_use]
    pub fn count(&self) -> usize {
        self.page.count()
    }
    /// Key of item `i`; of an inner node the smallest key that child `i` may hold.
    ///
    /// # Panics
    /// Where `i` is not below [`Node::count`].
    #[must_use]
    pub fn key(&self, i: usize) -> Key {
        self.page.key(i)
    }
    /// Value of item `i`. Of an inner node: the child's encoded pointer, or zeros for a child that
    /// was not written yet.
    ///
    /// # Panics
    /// Where `i` is not below [`Node::count`].
    #[must_use]
    pub fn value(&self, i: usize) -> &[u8] {
        self.page.value(i)
    }
    /// Bytes in use, of [`Node::capacity_bytes`].
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.page.used()
    }
    /// Bytes that items may take.
    #[must_use]
    pub fn capacity_bytes(&self) -> usize {
        self.page.capacity()
    }

    pub(in crate::tree) fn is_leaf(&self) -> bool {
        self.level() == 0
    }

    /// Which child `key` belongs to. Keys below the first separator belong to the first child.
    pub(in crate::tree) fn child_for(&self, key: Key) -> usize {
        match self.page.find(key) {
            Ok(i) => i,
            Err(i) => i.saturating_sub(1),
        }
    }

    fn disk_pointer(&self, i: usize) -> Option<Pointer> {
        let value = self.page.value(i);
        let exact = value.len() == Pointer::BYTES;
        exact.then(|| Pointer::decode(&mut Reader::new(value)).ok()).flatten()
    }

    /// Child `i` of an inner node.
    pub(in crate::tree) fn child(&self, i: usize) -> Child<'_> {
        if let Some(Some(handle)) = self.live.get(i) {
            return Child::Live(handle);
        }
        Child::Disk(self.disk_pointer(i).expect("`decode` refuses nodes with other pointers"))
    }

    /// Child `i`, to keep.
    pub(in crate::tree) fn link(&self, i: usize) -> Link {
        match self.child(i) {
            Child::Disk(pointer) => Link::Disk(pointer),
            Child::Live(handle) => Link::Live(handle.clone()),
        }
    }

    /// Whether child `i` is in memory.
    pub(in crate::tree) fn is_live(&self, i: usize) -> bool {
        matches!(self.live.get(i), Some(Some(_)))
    }

    /// The handle of child `i`, if it is in memory.
    pub(in crate::tree) fn live_mut(&mut self, i: usize) -> Option<&mut Arc<Handle>> {
        self.live.get_mut(i).and_then(Option::as_mut)
    }

    /// The children in memory, with their indices.
    pub(in crate::tree) fn live(&self) -> impl Iterator<Item = (usize, &Arc<Handle>)> {
        self.live.iter().enumerate().filter_map(|(i, handle)| Some((i, handle.as_ref()?)))
    }

    /// Makes room for children in memory: from here on `live` has one entry per child.
    fn open_live(&mut self) {
        self.live.resize(self.page.count(), None);
    }

    /// Makes child `i` one in memory. No key of the version it replaces stays in the page.
    pub(in crate::tree) fn set_live(&mut self, i: usize, handle: Arc<Handle>) {
        self.open_live();
        self.page.value_mut(i).fill(0);
        self.live[i] = Some(handle);
    }

    /// Makes child `i` one on disk.
    pub(in crate::tree) fn set_pointer(&mut self, i: usize, pointer: &Pointer) {
        self.page.value_mut(i).copy_from_slice(&*pointer.to_bytes());
        if let Some(live) = self.live.get_mut(i) {
            *live = None;
        }
    }

    /// Puts a child before the one at `i`. It must fit.
    pub(in crate::tree) fn insert_child(&mut self, i: usize, key: Key, link: &Link) {
        self.open_live();
        match link {
            Link::Disk(pointer) => {
                self.page.insert(i, key, &*pointer.to_bytes());
                self.live.insert(i, None);
            }
            Link::Live(handle) => {
                self.page.insert(i, key, &[0; Pointer::BYTES]);
                self.live.insert(i, Some(handle.clone()));
            }
        }
    }

    /// Takes item or child `i` out.
    pub(in crate::tree) fn remove(&mut self, i: usize) {
        self.page.remove(i);
        if i < self.live.len() {
            self.live.remove(i);
        }
    }

    /// Cuts the items from `i` on off into a node of their own.
    pub(in crate::tree) fn split_off(&mut self, i: usize) -> Self {
        let live = if i < self.live.len() { self.live.split_off(i) } else { Vec::new() };
        Self { page: self.page.split_off(i), live }
    }

    /// Appends items of another node, which must fit and be above all that are here.
    pub(in crate::tree) fn extend(&mut self, other: &Self, range: Range<usize>) {
        if !self.live.is_empty() || !other.live.is_empty() {
            self.open_live();
            match other.live.get(range.clone()) {
                Some(live) => self.live.extend_from_slice(live),
                None => self.live.resize(self.live.len() + range.len(), None),
            }
        }
        self.page.extend(&other.page, range);
    }

    /// A copy without children in memory, for which `place_of` gives the pointers.
    pub(in crate::tree) fn settled<E>(
        &self,
        mut place_of: impl FnMut(&Arc<Handle>) -> Result<Pointer, E>,
    ) -> Result<Self, E> {
        let mut copy = Self { page: self.page.clone(), live: Vec::new() };
        for (i, handle) in self.live() {
            copy.set_pointer(i, &place_of(handle)?);
        }
        Ok(copy)
    }
}

/// Bytes that a child takes in its parent.
pub(in crate::tree) const CHILD_BYTES: usize = SLOT_BYTES + Pointer::BYTES;

const _: () = assert!(Pointer::BYTES <= super::page::value_bytes_max(super::page::NODE_BYTES_MIN));
