//! The binary at the prompt: help, exit statuses, bad input, without any daemon.

mod bad_input;
mod help;
mod no_daemon;
mod pools;
mod root_secrets;
mod secrets;
mod support;
mod unit_file;
mod unwritten;
