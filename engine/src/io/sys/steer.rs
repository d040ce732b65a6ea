//! The kernel's side of [`flock_utp::steer`]: a classic BPF program that picks a socket of a group.

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD,
    BPF_MOD, BPF_RET,
};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The accumulator as what is returned (linux/filter.h).
const BPF_A: u32 = 0x10;

fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).expect("classic codes are short");
    libc::sock_filter { code, jt, jf, k }
}

/// Loads begin at the UDP payload; one beyond its end makes the program return 0, the first
/// socket (socket(7), `SO_ATTACH_REUSEPORT_CBPF`).
fn program(shards: u16) -> [libc::sock_filter; 14] {
    let first_is = |byte, to_if| step(BPF_JMP | BPF_JEQ | BPF_K, to_if, 0, byte);
    let load_id = step(BPF_LD | BPF_H | BPF_ABS, 0, 0, 2);
    [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        first_is(0x41, 5),
        first_is(0x01, 8),
        first_is(0x11, 7),
        first_is(0x21, 6),
        first_is(0x31, 5),
        step(BPF_RET | BPF_K, 0, 0, 0),
        // A SYN: what follows it has the next id.
        load_id,
        step(BPF_ALU | BPF_ADD | BPF_K, 0, 0, 1),
        step(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xffff),
        step(BPF_JMP | BPF_JA, 0, 0, 1),
        // Any other packet.
        load_id,
        step(BPF_ALU | BPF_MOD | BPF_K, 0, 0, shards.max(1).into()),
        step(BPF_RET | BPF_A, 0, 0, 0),
    ]
}

/// Attaches the program for `shards` sockets to the group of `socket`, whose sockets were bound in
/// the order of their shards.
pub(crate) fn steer(socket: BorrowedFd<'_>, shards: u16) -> io::Result<()> {
    let mut steps = program(shards);
    let attached = libc::sock_fprog {
        len: u16::try_from(steps.len()).expect("fourteen fits"),
        filter: steps.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("small");
    // SAFETY: the kernel reads the description and, through it, the steps; both outlive the call,
    // and it keeps a copy.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const attached).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
