//! Tests in virtual time. A failure prints its seed; `FLOCK_SEED=<seed>` replays that one alone,
//! `FLOCK_SEEDS=<n>` goes through more of them.

mod conformance;
mod flood;
mod model;
mod storm;
mod streams;
mod swarm;
