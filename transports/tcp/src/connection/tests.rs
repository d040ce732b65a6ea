use super::*;
use proptest::prelude::*;

fn limits() -> SendLimits {
    SendLimits {
        high: 100,
        low: 20,
        max: 1000,
    }
}

fn bytes(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

fn verbs(connection: &mut Connection) -> Vec<Verb> {
    std::iter::from_fn(|| connection.next_verb()).collect()
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 96, "{}", size_of::<Connection>());
}

#[test]
fn water_marks_hold_and_release_the_sender() {
    let mut c = Connection::new(limits());
    assert_eq!(c.send(bytes(60)), Ok(Queued::Ok));
    let first = verbs(&mut c);
    assert!(matches!(&first[..], [Verb::Send(chunks), Verb::Recv] if chunks[0].len() == 60));
    assert_eq!(c.send(bytes(60)), Ok(Queued::AboveHigh));
    assert!(matches!(c.send(bytes(900)), Err(SendRefused::Full(_))));
    assert_eq!(c.on_sent(60), None, "still above the low mark");
    verbs(&mut c);
    assert_eq!(c.on_sent(60), Some(Event::Writable));
}

#[test]
fn a_graceful_close_sends_what_is_queued_and_waits_for_the_peer() {
    let mut c = Connection::new(limits());
    c.send(bytes(5)).unwrap();
    c.close();
    assert!(matches!(&verbs(&mut c)[..], [Verb::Send(_), Verb::Recv]));
    assert!(matches!(c.send(bytes(1)), Err(SendRefused::Closed(_))));
    c.on_sent(5);
    assert_eq!(verbs(&mut c), [Verb::ShutdownWrite]);
    assert!(!c.on_data(3), "a closing connection delivers nothing");
    assert_eq!(c.on_eof(), None);
    assert_eq!(verbs(&mut c), [Verb::Close(CloseHow::Fin)]);
    c.abort();
    assert_eq!(verbs(&mut c), []);
}

#[test]
fn a_stream_whose_directions_have_both_ended_is_closed() {
    let mut c = Connection::new(limits());
    verbs(&mut c);
    assert_eq!(c.on_eof(), Some(Event::PeerEnded));
    c.send(bytes(5)).unwrap();
    c.end();
    assert!(matches!(&verbs(&mut c)[..], [Verb::Send(_)]));
    c.on_sent(5);
    assert_eq!(verbs(&mut c), [Verb::Close(CloseHow::Fin)]);
    let mut c = Connection::new(limits());
    c.end();
    assert_eq!(verbs(&mut c), [Verb::ShutdownWrite, Verb::Recv]);
    assert_eq!(c.on_eof(), Some(Event::PeerEnded));
    assert_eq!(verbs(&mut c), [Verb::Close(CloseHow::Fin)]);
}

#[test]
fn a_lingering_peer_is_left_alone_or_reset() {
    for (unsent, how) in [(0, CloseHow::Fin), (5, CloseHow::Rst)] {
        let mut c = Connection::new(limits());
        c.send(bytes(unsent)).unwrap();
        c.close();
        verbs(&mut c);
        c.linger_expired();
        assert_eq!(verbs(&mut c), [Verb::Close(how)]);
    }
}

#[test]
fn a_pause_cancels_and_a_resume_arms_again() {
    let mut c = Connection::new(limits());
    assert_eq!(verbs(&mut c), [Verb::Recv]);
    c.pause_recv();
    assert_eq!(verbs(&mut c), [Verb::CancelRecv]);
    c.resume_recv();
    assert_eq!(verbs(&mut c), [], "the cancelled receive has not ended yet");
    c.on_recv_ended(Errno::CANCELED);
    assert_eq!(verbs(&mut c), [Verb::Recv]);
}

#[test]
fn what_is_metered_is_received_a_buffer_at_a_time() {
    let mut c = Connection::new(limits());
    assert_eq!(verbs(&mut c), [Verb::Recv]);
    c.meter_recv(true);
    assert_eq!(verbs(&mut c), [Verb::CancelRecv]);
    c.on_recv_ended(Errno::CANCELED);
    assert_eq!(verbs(&mut c), [Verb::RecvOnce]);
    c.on_data(5);
    c.on_recv_ended(Errno::CANCELED);
    assert_eq!(verbs(&mut c), [Verb::RecvOnce]);
    c.meter_recv(false);
    assert_eq!(verbs(&mut c), [], "it ends by itself");
    c.on_recv_ended(Errno::CANCELED);
    assert_eq!(verbs(&mut c), [Verb::Recv]);
}

#[derive(Clone, Debug)]
enum Input {
    Send(usize),
    End,
    Close,
    Abort,
    Linger,
    Pause,
    Resume,
    Meter(bool),
    Data,
    Eof,
    Sent,
    Fail,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        6 => (0usize..700_000).prop_map(Input::Send),
        1 => Just(Input::End),
        1 => Just(Input::Close),
        1 => Just(Input::Abort),
        1 => Just(Input::Linger),
        2 => Just(Input::Pause),
        2 => Just(Input::Resume),
        2 => any::<bool>().prop_map(Input::Meter),
        3 => Just(Input::Data),
        1 => Just(Input::Eof),
        6 => Just(Input::Sent),
        1 => Just(Input::Fail),
    ]
}

/// The socket's side: what is outstanding, and what a kernel would say.
#[derive(Default)]
struct Socket {
    receiving: bool,
    once: bool,
    sending: Option<u64>,
    ended: bool,
    shut: bool,
    closed: bool,
    taken: u64,
}

impl Socket {
    fn carry_out(&mut self, verb: Verb) {
        assert!(!self.closed, "{verb:?} after the close");
        match verb {
            Verb::Recv | Verb::RecvOnce => {
                self.once = verb == Verb::RecvOnce;
                assert!(!self.receiving && !self.ended);
                self.receiving = true;
            }
            Verb::CancelRecv => assert!(self.receiving),
            Verb::Send(chunks) => {
                assert!(self.sending.is_none() && !self.shut);
                let len: usize = chunks.iter().map(Bytes::len).sum();
                assert!(len > 0 && chunks.iter().all(|chunk| !chunk.is_empty()));
                self.sending = Some(len as u64);
            }
            Verb::ShutdownWrite => {
                assert!(!self.shut && self.sending.is_none());
                self.shut = true;
            }
            Verb::Close(_) => self.closed = true,
        }
    }
}

proptest! {
    #[test]
    fn verbs_are_legal_and_no_byte_is_lost(
        inputs in proptest::collection::vec(input(), 1..80)
    ) {
        let big = SendLimits { high: 300_000, low: 100_000, max: 2_000_000 };
        let mut c = Connection::new(big);
        let mut socket = Socket::default();
        let (mut accepted, mut lost) = (0, false);
        for input in inputs {
            match input {
                Input::Send(len) => accepted += if c.send(bytes(len)).is_ok() { len as u64 } else { 0 },
                Input::End => c.end(),
                Input::Close => c.close(),
                Input::Abort => { c.abort(); lost = true; }
                Input::Linger => { lost |= c.queued() > 0; c.linger_expired(); }
                Input::Pause => c.pause_recv(),
                Input::Resume => c.resume_recv(),
                Input::Meter(metered) => { c.meter_recv(metered); }
                Input::Data if socket.receiving => {
                    c.on_data(1);
                    if socket.once {
                        socket.receiving = false;
                        c.on_recv_ended(Errno::CANCELED);
                    }
                }
                Input::Eof if socket.receiving => {
                    (socket.receiving, socket.ended) = (false, true);
                    c.on_eof();
                }
                Input::Sent => if let Some(len) = socket.sending.take() {
                    socket.taken += len;
                    c.on_sent(len);
                },
                Input::Fail if socket.receiving => {
                    (socket.receiving, socket.ended, lost) = (false, true, true);
                    if c.on_recv_ended(Errno(104)).is_some() {
                        c.abort();
                    }
                }
                _ => {}
            }
            if socket.closed {
                break;
            }
            while let Some(verb) = c.next_verb() {
                socket.carry_out(verb);
            }
        }
        // Let everything that is queued go out.
        while !lost && !socket.closed && let Some(len) = socket.sending.take() {
            socket.taken += len;
            c.on_sent(len);
            while let Some(verb) = c.next_verb() {
                socket.carry_out(verb);
            }
        }
        if !lost {
            prop_assert_eq!(socket.taken, accepted);
            prop_assert_eq!(c.bytes_out(), accepted);
        }
    }
}
