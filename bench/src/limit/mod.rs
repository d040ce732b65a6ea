//! The limits: what the kernel allows for these jobs with no library and no swarm logic between.

pub mod epoll;
pub mod sys;
pub mod udp;
pub mod uring;
