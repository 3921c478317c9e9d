//! Logs: their areas, and what a crash left in them.

use std::sync::Arc;

use crate::base::{ClusterId, SegmentId};
use crate::pool::log::{LogItem, Scan};
use crate::pool::{Pool, PoolError, items};
use crate::verify::coverage::{LogCoverage, LogState};
use crate::verify::facts::Facts;
use crate::verify::findings::{Defect, Owner, Report};
use crate::verify::owners::{Expected, Owners, Reach};

/// Every log that the catalog lists.
pub(in crate::verify) fn check(
    pool: &Arc<Pool>,
    facts: &Facts,
    owners: &mut Owners,
    report: &mut Report,
) {
    let logs = match items::logs(pool.read_catalog().tree(), pool.nodes()) {
        Ok(logs) => logs,
        Err(error) => {
            report.damage(Defect::Catalog { why: error.to_string() });
            return;
        }
    };
    for (cluster, item) in logs {
        let owner = Owner::Log(cluster);
        let record = facts.clusters.iter().find(|record| record.id == cluster);
        let named = record.map(|record| Owner::Cluster(cluster, record.name.clone()));
        if record.is_none() && facts.complete {
            report.damage(Defect::Log { cluster, why: "its cluster is gone".to_owned() });
        }
        let area = Reach { run: item.area, expected: Expected::Segment(SegmentId::POOL) };
        owners.take_in(&owner, vec![area], &|_, _| false, report);
        let mut coverage =
            LogCoverage { cluster, state: LogState::Open, records: 0, claimed_blocks: 0 };
        match pool.scan_log(cluster, &item) {
            Ok(None) => {}
            Ok(Some(scan)) => {
                coverage.records = scan.records.len() as u64;
                coverage.claimed_blocks = claimed_blocks(&scan);
                if item.is_damaged() {
                    let why = PoolError::LogLost.to_string();
                    report.damage_of(named.clone(), Defect::Log { cluster, why });
                }
                coverage.state = if item.outstanding.is_some() {
                    take_in_claims(&item, &scan, &owner, facts, owners, report);
                    if item.is_damaged() { LogState::Damaged } else { LogState::Outstanding }
                } else {
                    expect_free(cluster, named, &scan, owners, report);
                    LogState::Undecided
                };
            }
            Err(error) => {
                coverage.state = LogState::Damaged;
                let why = match error {
                    PoolError::Corrupt { what, addr } => format!("{what} (block {addr})"),
                    other => other.to_string(),
                };
                report.damage_of(named, Defect::Log { cluster, why });
            }
        }
        report.coverage.logs.push(coverage);
    }
}

fn claimed_blocks(scan: &Scan) -> u64 {
    let claims = scan.records.iter().flat_map(|record| &record.outer.claims);
    claims.map(|claim| u64::from(claim.run.blocks)).sum()
}

/// Recovery has booked these to the head's segment; the table counts them when they are replayed.
fn take_in_claims(
    item: &LogItem,
    scan: &Scan,
    owner: &Owner,
    facts: &Facts,
    owners: &mut Owners,
    report: &mut Report,
) {
    let expected = Expected::Segment(item.segment);
    let claims = scan.records.iter().flat_map(|record| &record.outer.claims);
    let reaches = claims.map(|claim| Reach { run: claim.run, expected }).collect();
    let blocks = owners.take_in(owner, reaches, &|_, _| false, report);
    *facts.claimed.borrow_mut().entry(item.segment).or_default() += blocks;
}

/// Nobody has taken these in yet: recovery will, and must find them free.
fn expect_free(
    cluster: ClusterId,
    named: Option<Owner>,
    scan: &Scan,
    owners: &mut Owners,
    report: &mut Report,
) {
    for claim in scan.records.iter().flat_map(|record| &record.outer.claims) {
        if let Some((addr, segment)) = owners.first_allocated(claim.run, report) {
            let defect = Defect::ClaimedTwice { cluster, addr, segment };
            report.damage_of(named.clone(), defect);
        }
    }
}
