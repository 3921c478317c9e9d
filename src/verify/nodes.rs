//! The nodes of one tree.

use std::ops::ControlFlow;

use crate::base::Generation;
use crate::block::{NodeStore, Pointer};
use crate::tree::{Node, Nodes, Step, Tree};
use crate::verify::findings::{Defect, Owner, Report, Severity};
use crate::verify::pace::Pace;
use crate::verify::spots::Spot;

/// A node that was read from where this pointer says.
pub(in crate::verify) type VisitNode<'a> = dyn FnMut(&mut Report, &Pointer, Option<&Node>) + 'a;

/// Hands every node of a tree to `visit`, `None` for one that cannot be read; checks each of two
/// copies, and that nothing was born after `newest`. Whether all could be read and was.
pub(in crate::verify) fn walk(
    nodes: &Nodes,
    tree: &Tree,
    owner: &Owner,
    newest: Generation,
    pace: &dyn Pace,
    report: &mut Report,
    visit: &mut VisitNode<'_>,
) -> bool {
    let mut complete = true;
    tree.walk(nodes, &mut |step| {
        if !pace.read(nodes.node_bytes() as u64) || pace.lets_go() {
            complete = false;
            return ControlFlow::Break(());
        }
        match step {
            Step::Node { pointer: Some(pointer), node } => {
                check_copies(&**nodes.store(), pointer, owner, report);
                if pointer.birth > newest {
                    report.damage(Defect::Node {
                        owner: owner.clone(),
                        addr: pointer.addr,
                        why: format!(
                            "the node at block {} was born in generation {}, after its root",
                            pointer.addr, pointer.birth
                        ),
                    });
                }
                visit(report, pointer, Some(node));
            }
            // Of a tree that is being changed: its blocks are not given out yet.
            Step::Node { pointer: None, .. } => {}
            Step::Unreadable { pointer, lower, upper, error, .. } => {
                complete = false;
                let (addr, blocks) = (pointer.addr, pointer.blocks);
                let why = error.to_string();
                let defect = Defect::Node { owner: owner.clone(), addr, why };
                let at = report.bad_node(Severity::Damage, defect, owner, blocks);
                if let Some(second) = pointer.second {
                    report.spots.bad_node(second, blocks, at);
                }
                report.lost_keys(at, Spot { owner: owner.clone(), lower, upper });
                visit(report, pointer, None);
            }
        }
        ControlFlow::Continue(())
    });
    complete
}

/// A node that has two copies was read from a good one; is the other good too?
fn check_copies(store: &dyn NodeStore, pointer: &Pointer, owner: &Owner, report: &mut Report) {
    let Some(second) = pointer.second else { return };
    for (addr, other) in [(pointer.addr, second), (second, pointer.addr)] {
        let one = Pointer { addr, second: None, ..pointer.clone() };
        if store.read_node(&one).is_err() {
            let mended = report.mends && store.mend_node(&one, other).is_ok();
            let defect = Defect::NodeCopy { owner: owner.clone(), addr, mended };
            report.bad_node(Severity::Repairable, defect, owner, pointer.blocks);
        }
    }
}
