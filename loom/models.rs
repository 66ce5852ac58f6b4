//! Runs models of the calls, lists and views of `src/discovery/view/` in every interleaving of their threads, and with
//! every value that the memory model lets a thread read.
//!
//! The files of `src/` are compiled as they are, with the standins of `standins.rs`.
//!
//! `cargo run --release --manifest-path loom/Cargo.toml -- [NAME]` runs all models, or those whose name contains `NAME`.
#![allow(dead_code, unused_imports, unused_macros, unexpected_cfgs)]

extern crate standins as actix;
extern crate standins as actix_rt;
extern crate standins as arc_swap;
extern crate standins as std;
extern crate standins as tokio;

mod config {
    use std::time::Duration;

    pub(crate) const LONGEST_DURATION: Duration = Duration::MAX;
}
#[path = "../src/error.rs"]
mod error;
#[path = "../src/model/mod.rs"]
mod model;
mod runtime {
    pub(crate) mod blocking {
        pub(crate) use loom::future::block_on;
    }
}
mod view;

fn main() {
    view::models::run();
}
