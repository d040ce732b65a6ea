//! A shutdown, and real peers that never end their direction.

use crate::engine::{on_each_backend, until};
use crate::node::PATIENCE;
use flock_engine::Flock;
use serde_json::json;
use std::time::Instant;

/// A uTP stream of theirs stays half open when ours has ended, unless the application ends it,
/// which a quiet one does not. It has acknowledged everything, so that nothing is worth the wait.
#[test]
fn a_peer_that_never_ends_does_not_hold_a_shutdown_up_over_utp() {
    let builder = Flock::builder().tcp(false).utp(true).linger(PATIENCE);
    for we_dial in [true, false] {
        on_each_backend(&builder, |node, engine| {
            let peer = node.start(0, json!({"quiet": true, "tcp": false, "utp": true}));
            if we_dial {
                engine.dial(peer.port);
            } else {
                node.add_peer(0, engine.port);
            }
            let conn = engine.accept();
            until("Node has met us", || node.status(0).connected == 1);
            let begun = Instant::now();
            engine.flock.shutdown(PATIENCE);
            let took = begun.elapsed();
            assert!(took < PATIENCE / 2, "{took:?}");
            assert!(conn.is_closed());
            until("Node is told", || node.status(0).connected == 0);
        });
    }
}
