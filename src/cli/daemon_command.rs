//! `daemon`
use crate::base::ProblemCode;
use crate::cli::args::*;
use crate::cli::context::{Context, Outcome};
use crate::control::Problem;
pub(in crate::cli) fn run(_: &Context, _: Daemon) -> Outcome {
    Err(Problem::new(ProblemCode::Unsupported, "x"))
}
