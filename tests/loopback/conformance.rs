//! The conformance suite on the backends of the operating system.

mod poll {
    use crate::backends::Poll;
    flock_tests::conformance!(Poll);
}

mod uring {
    use crate::backends::Uring;
    flock_tests::conformance!(Uring);
}
