//! The intent logs: items, and the records that a crash left.

use serde::Serialize;

use crate::base::ClusterId;
use crate::pool::log::{LogItem, ScannedRecord};
use crate::pool::{Pool, PoolError, items};

/// One record, by its outer part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordShape {
    /// The interval.
    pub generation: u64,
    /// Number within it.
    pub sequence: u64,
    /// Records below this one had been flushed when it was written.
    pub flushed_mark: u64,
    /// The checkpoint that was durable then.
    pub durable: u64,
    /// Runs it claims, and their blocks.
    pub claims: (usize, u64),
    /// Runs it lets go, and their blocks.
    pub kills: (usize, u64),
    /// Runs whose ciphertext rides in it, and their blocks.
    pub images: (usize, u64),
    /// Blocks that its replay may need for nodes.
    pub need_blocks: u64,
    /// Bytes of the sealed edits.
    pub inner_bytes: usize,
    /// The generation with which the log goes on, for a switch record.
    pub switches_to: Option<u64>,
}

/// What an opening decided about a log that a crash left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutstandingShape {
    /// The interval whose log comes first.
    pub generation: u64,
    /// The half in which it begins.
    pub half: u8,
    /// Records that count.
    pub records: u64,
    /// Whether what stood behind them is damaged.
    pub damaged: bool,
    /// Blocks that the replay may need.
    pub need_blocks: u64,
}

/// A cluster's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogShape {
    /// Whose.
    pub cluster: String,
    /// First block of the area.
    pub area: u64,
    /// Blocks of the area.
    pub area_blocks: u32,
    /// The half in which the log of the interval after the checkpoint begins.
    pub half: u8,
    /// The segment that takes what the log claims.
    pub segment: u32,
    /// What a crash left and an opening decided on.
    pub outstanding: Option<OutstandingShape>,
    /// The records that count; none of a log in use.
    pub records: Vec<RecordShape>,
    /// Why the records cannot be shown.
    pub error: Option<String>,
}

/// Every log, or that of one cluster.
///
/// # Errors
/// The tree's; a log that cannot be read is shown with its error.
pub fn logs(pool: &Pool, of: Option<ClusterId>) -> Result<Vec<LogShape>, PoolError> {
    let found = items::logs(pool.read_catalog().tree(), pool.nodes())?;
    let wanted = found.into_iter().filter(|(cluster, _)| of.is_none_or(|id| id == *cluster));
    Ok(wanted.map(|(cluster, item)| shape(pool, cluster, &item)).collect())
}

fn shape(pool: &Pool, cluster: ClusterId, item: &LogItem) -> LogShape {
    let (records, error) = match pool.scan_log(cluster, item) {
        Ok(scan) => {
            let records = scan.iter().flat_map(|scan| &scan.records);
            (records.map(record).collect(), None)
        }
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    LogShape {
        cluster: cluster.to_string(),
        area: item.area.addr.get(),
        area_blocks: item.area.blocks,
        half: item.half,
        segment: item.segment.get(),
        outstanding: item.outstanding.as_ref().map(|o| OutstandingShape {
            generation: o.generation.get(),
            half: o.half,
            records: o.records,
            damaged: o.damaged,
            need_blocks: o.need_blocks,
        }),
        records,
        error,
    }
}

fn record(record: &ScannedRecord) -> RecordShape {
    let outer = &record.outer;
    let blocks = |runs: &mut dyn Iterator<Item = u32>| -> u64 { runs.map(u64::from).sum() };
    RecordShape {
        generation: record.place.generation.get(),
        sequence: record.place.sequence,
        flushed_mark: outer.flushed_mark,
        durable: outer.durable.get(),
        claims: (outer.claims.len(), blocks(&mut outer.claims.iter().map(|c| c.run.blocks))),
        kills: (outer.kills.len(), blocks(&mut outer.kills.iter().map(|k| k.run.blocks))),
        images: (outer.images.len(), blocks(&mut outer.images.iter().map(|i| i.run.blocks))),
        need_blocks: outer.need_blocks,
        inner_bytes: record.inner.len(),
        switches_to: outer.switch.as_ref().map(|switch| switch.generation.get()),
    }
}
