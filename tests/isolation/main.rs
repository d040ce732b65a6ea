//! A flood that the kernel steers to one shard, and what it costs the other. The only test of its
//! process, whose threads it tells apart by name.

#[cfg(test)]
mod flood;
