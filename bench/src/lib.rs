//! The same job on Flock, on its rivals and on the raw system interfaces, side by side.
//!
//! A [`job`] says what is exchanged, an [`engine`] knows how one library plays both sides of it,
//! [`measure`] runs one engine for one window, [`compare`] interleaves many windows and pairs
//! them round by round, and [`report`] says what came of it. Everything a reader needs to judge
//! the method is in `README.md` next to this crate.

pub mod cli;
pub mod compare;
pub mod criteria;
pub mod engine;
pub mod engines;
pub mod environment;
pub mod files;
pub mod job;
pub mod limit;
pub mod measure;
pub mod memory;
pub mod newcomers;
pub mod node;
pub mod report;
pub mod roles;
pub mod shaped;
pub mod slow;
pub mod stats;
pub mod targets;
pub mod veth;
