//! Commands that work on a pool without a daemon.
use crate::base::ProblemCode;
use crate::cli::args::*;
use crate::cli::context::{Context, Outcome};
use crate::control::Problem;
fn no() -> Outcome {
    Err(Problem::new(ProblemCode::Unsupported, "x"))
}
pub(in crate::cli) fn init(_: &Context, _: Init) -> Outcome {
    no()
}
pub(in crate::cli) fn config(_: &Context, _: ConfigCommand) -> Outcome {
    no()
}
pub(in crate::cli) fn check(_: &Context) -> Outcome {
    no()
}
pub(in crate::cli) fn debug(_: &Context, _: DebugCommand) -> Outcome {
    no()
}
pub(in crate::cli) fn upgrade(_: &Context, _: bool) -> Outcome {
    no()
}
pub(in crate::cli) fn new_id(_: &Context) -> Outcome {
    no()
}
