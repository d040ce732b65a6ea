//! Tests over real loopback sockets.

mod conformance;
