//! Coverage-guided runs of the targets in `src/fuzzing`, by libFuzzer. `STRONGROOM_FUZZ_TARGET` names
//! the target; with `STRONGROOM_FUZZ_SEEDS=DIR` its seeds are written there and nothing is run.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use strongroom::fuzzing::{TARGETS, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fn target() -> &'static Target {
    TARGET.get_or_init(|| {
        let name = std::env::var("STRONGROOM_FUZZ_TARGET").unwrap_or_default();
        Target::named(&name).unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("STRONGROOM_FUZZ_TARGET is none of {}", names.join(" "));
            std::process::exit(2);
        })
    })
}

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("STRONGROOM_FUZZ_SEEDS") {
            for (number, seed) in target().seeds().iter().enumerate() {
                let path = Path::new(&folder).join(format!("seed-{number:04}"));
                std::fs::write(path, seed).expect("a seed can be written");
            }
            std::process::exit(0);
        }
    },
    |bytes: &[u8]| target().run(bytes)
);
