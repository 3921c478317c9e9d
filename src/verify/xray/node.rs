//! The nodes of the catalog. Values are not shown: some hold keys.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::base::BlockAddr;
use crate::base::cursor::Reader;
use crate::block::Pointer;
use crate::pool::Pool;
use crate::tree::{Node, Step};

/// A node in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// First block.
    pub addr: u64,
    /// First block of its second copy.
    pub second: Option<u64>,
    /// The checkpoint that wrote it.
    pub birth: u64,
    /// Height above the leaves; `None` where it cannot be read.
    pub level: Option<u8>,
    /// Items in it.
    pub items: usize,
    /// Bytes in use.
    pub used_bytes: usize,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// An item of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemShape {
    /// Object of its key.
    pub object: u64,
    /// Kind of its key.
    pub kind: u8,
    /// Offset of its key.
    pub offset: u64,
    /// Bytes of its value.
    pub value_bytes: usize,
}

/// A child of an inner node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildShape {
    /// Object of the key from which on it holds items.
    pub object: u64,
    /// Kind of that key.
    pub kind: u8,
    /// Offset of that key.
    pub offset: u64,
    /// First block.
    pub addr: u64,
    /// First block of its second copy.
    pub second: Option<u64>,
    /// The checkpoint that wrote it.
    pub birth: u64,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeShape {
    /// The node in a line.
    pub summary: NodeSummary,
    /// Items of a leaf.
    pub items: Vec<ItemShape>,
    /// Children of an inner node.
    pub children: Vec<ChildShape>,
}

/// Every node of the catalog, parents before children.
#[must_use]
pub fn nodes(pool: &Pool) -> Vec<NodeSummary> {
    let mut found = Vec::new();
    walk(pool, &mut |pointer, node| {
        found.push(summary(pointer, &node));
        ControlFlow::Continue(())
    });
    found
}

/// The node of the catalog that stands at `addr`, in its first or second copy.
#[must_use]
pub fn node(pool: &Pool, addr: BlockAddr) -> Option<NodeShape> {
    let mut found = None;
    walk(pool, &mut |pointer, node| {
        if pointer.addr != addr && pointer.second != Some(addr) {
            return ControlFlow::Continue(());
        }
        let summary = summary(pointer, &node);
        let (items, children) = node.map(contents).unwrap_or_default();
        found = Some(NodeShape { summary, items, children });
        ControlFlow::Break(())
    });
    found
}

/// A node, or why it cannot be read.
type Visit<'a> = dyn FnMut(&Pointer, Result<&Node, String>) -> ControlFlow<()> + 'a;

fn walk(pool: &Pool, visit: &mut Visit<'_>) {
    pool.read_catalog().tree().walk(pool.nodes(), &mut |step| match step {
        Step::Node { pointer: Some(pointer), node } => visit(pointer, Ok(node)),
        Step::Node { pointer: None, .. } => ControlFlow::Continue(()),
        Step::Unreadable { pointer, error, .. } => visit(pointer, Err(error.to_string())),
    });
}

fn summary(pointer: &Pointer, node: &Result<&Node, String>) -> NodeSummary {
    let read = node.as_ref().ok();
    NodeSummary {
        addr: pointer.addr.get(),
        second: pointer.second.map(BlockAddr::get),
        birth: pointer.birth.get(),
        level: read.map(|node| node.level()),
        items: read.map_or(0, |node| node.count()),
        used_bytes: read.map_or(0, |node| node.used_bytes()),
        error: node.as_ref().err().cloned(),
    }
}

fn contents(node: &Node) -> (Vec<ItemShape>, Vec<ChildShape>) {
    let (mut items, mut children) = (Vec::new(), Vec::new());
    for i in 0..node.count() {
        let (key, value) = (node.key(i), node.value(i));
        if node.level() == 0 {
            let (object, kind, offset) = (key.object, key.kind, key.offset);
            items.push(ItemShape { object, kind, offset, value_bytes: value.len() });
        } else if let Ok(pointer) = Pointer::decode(&mut Reader::new(value)) {
            children.push(ChildShape {
                object: key.object,
                kind: key.kind,
                offset: key.offset,
                addr: pointer.addr.get(),
                second: pointer.second.map(BlockAddr::get),
                birth: pointer.birth.get(),
            });
        }
    }
    (items, children)
}
