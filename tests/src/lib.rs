//! What the test binaries of Flock Revelation share.

pub mod conformance;
pub mod net;
pub mod streams;
pub mod world;
