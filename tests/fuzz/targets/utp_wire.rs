//! Any datagram is a uTP packet or none; what is understood of it survives being encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| flock_utp::recode(datagram));
