//! How far long work is, on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::Output;

/// A line that moves while work goes on; nothing where nobody watches.
pub(in crate::cli) struct Progress {
    bar: Option<ProgressBar>,
    wanted: bool,
}

impl Progress {
    pub fn new(out: &Output) -> Self {
        Self { bar: None, wanted: out.shows_progress() }
    }

    /// `done` of `total` steps; a total of 0 is unknown.
    pub fn show(&mut self, done: u64, total: u64) {
        if !self.wanted {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if total > 0 {
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_length(total);
            bar.set_position(done.min(total));
        } else {
            bar.set_message("working");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
