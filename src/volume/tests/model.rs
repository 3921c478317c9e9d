//! Random operations beside a plain model.
