//! One suite that holds every driver to the contract written on
//! [`Driver`](flock_engine::io::Driver).
