//! Tests over real loopback sockets.

mod backends;
mod conformance;
mod descriptors;
mod dialling;
mod differential;
mod listening;
mod waking;
