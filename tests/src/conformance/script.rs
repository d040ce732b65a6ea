//! One scripted scenario whose visible result must not depend on the driver.

use super::{Fixture, Rig, pattern};
use flock_engine::io::{Op, Outcome};
use flock_transport::CloseHow;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// What one stream showed: the bytes it received, a count for each kind of outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes received by the dialling end.
    pub dialled: Vec<u8>,
    /// Bytes received by the accepting end.
    pub accepted: Vec<u8>,
    /// Outcomes of both ends, by name.
    pub outcomes: BTreeMap<String, usize>,
}

/// Plays the script of `seed` and returns what each of its streams showed. Each step waits for
/// its effect, so timing does not show.
#[must_use]
pub fn play<F: Fixture>(seed: u64, streams: usize) -> Vec<Seen> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut rig = Rig::new::<F>();
    let (listener, addr) = rig.listen::<F>();
    (0..streams)
        .map(|_| {
            let (dialled, accepted) = rig.pair(listener, addr);
            rig.recv(dialled);
            rig.recv(accepted);
            for _ in 0..random.random_range(0..6) {
                let swap = random.random_bool(0.5);
                let (from, to) = if swap {
                    (accepted, dialled)
                } else {
                    (dialled, accepted)
                };
                let bytes = pattern(random.random(), random.random_range(1..200_000));
                let sent = rig.record(from).sent() + bytes.len() as u64;
                let got = rig.record(to).data.len() + bytes.len();
                rig.send(from, &bytes);
                rig.until("step", |rig| {
                    rig.record(from).sent() == sent && rig.record(to).data.len() == got
                });
            }
            if random.random_bool(0.3) {
                rig.submit(Op::ShutdownWrite { socket: dialled });
                rig.until("half close", |rig| rig.record(accepted).has(Outcome::Eof));
            }
            let reset = random.random_bool(0.3);
            let how = if reset { CloseHow::Rst } else { CloseHow::Fin };
            rig.close_how(accepted, how);
            rig.until("end", |rig| {
                !rig.outstanding(dialled, flock_engine::io::Verb::Recv)
            });
            rig.finish(&[dialled]);
            rig.until("close", |rig| rig.record(accepted).has(Outcome::Closed));
            let mut seen = Seen {
                dialled: rig.record(dialled).data.clone(),
                accepted: rig.record(accepted).data.clone(),
                ..Seen::default()
            };
            for socket in [dialled, accepted] {
                for outcome in &rig.record(socket).outcomes {
                    *seen.outcomes.entry(format!("{outcome:?}")).or_default() += 1;
                }
            }
            seen
        })
        .collect()
}
