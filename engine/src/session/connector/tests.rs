use super::*;

/// Puts out what it is told to.
struct Script<F>(F);

impl<F> Connector for Script<F>
where
    F: FnMut(&mut ToLocal<'_>, &mut ToPeer<'_>) -> Result<(), ConnectorError> + Send,
{
    fn outgoing(&mut self, bytes: Bytes, peer: &mut ToPeer<'_>) -> Result<(), ConnectorError> {
        peer.put(bytes)
    }

    fn incoming(
        &mut self,
        _: &[u8],
        local: &mut ToLocal<'_>,
        peer: &mut ToPeer<'_>,
    ) -> Result<(), ConnectorError> {
        (self.0)(local, peer)
    }
}

fn joint(
    script: impl FnMut(&mut ToLocal<'_>, &mut ToPeer<'_>) -> Result<(), ConnectorError> + Send + 'static,
) -> Joint {
    Joint {
        connector: Box::new(Script(script)),
        ended: false,
    }
}

#[test]
fn what_is_passed_is_not_copied_unless_something_else_is_put_out() {
    let mut out = Output::default();
    let mut alone = joint(|local, _| local.pass());
    alone.incoming(b"abc", &mut out).unwrap();
    assert!(out.passed && out.local.is_empty());
    let mut between = joint(|local, _| {
        local.put(b"<")?;
        local.pass()?;
        local.put(b">").map(|_| ())
    });
    between.incoming(b"abc", &mut out).unwrap();
    assert_eq!((out.passed, &out.local[..]), (false, &b"<abc>"[..]));
    let mut twice = joint(|local, _| {
        local.pass()?;
        local.pass()
    });
    twice.incoming(b"abc", &mut out).unwrap();
    assert_eq!((out.passed, &out.local[..]), (false, &b"abcabc"[..]));
}

#[test]
fn what_is_put_out_can_be_changed_in_place() {
    let mut out = Output::default();
    let mut upper = joint(|local, _| {
        local.put(b"a")?;
        local.put(b"bc")?.make_ascii_uppercase();
        Ok(())
    });
    upper.incoming(b"x", &mut out).unwrap();
    assert_eq!(out.local, b"aBC");
}

#[test]
fn what_is_sent_is_sent_by_reference() {
    let mut out = Output::default();
    let bytes = Bytes::from(vec![7; 100]);
    let at = bytes.as_ptr();
    joint(|_, _| Ok(())).outgoing(bytes, &mut out).unwrap();
    assert_eq!(out.peer.len(), 1);
    assert_eq!(out.peer[0].as_ptr(), at);
}

/// Exactly as much as is allowed passes, on either side; one byte more does not, even if the
/// connector takes no notice.
#[test]
fn a_call_puts_out_so_much_and_no_more() {
    let most = 2 * 3 + GROWTH;
    for (len, fits) in [(most, true), (most + 1, false)] {
        let mut out = Output::default();
        let mut to_peer = joint(move |_, peer| {
            let _ignored = peer.put(vec![0; len]);
            let _ignored = peer.put(Bytes::new());
            Ok(())
        });
        let mut to_local = joint(move |local, _| {
            let _ignored = local.put(&vec![0; len]);
            Ok(())
        });
        let overflow = Err(Failed::Connector(ConnectorError::Overflow));
        for joint in [&mut to_peer, &mut to_local] {
            let expected = if fits { Ok(()) } else { overflow };
            assert_eq!(joint.incoming(b"abc", &mut out), expected);
        }
        assert!(out.peer.is_empty());
        assert_eq!(out.local.len(), if fits { most } else { 0 });
    }
}

#[test]
fn a_call_that_fails_puts_out_nothing() {
    let mut out = Output::default();
    let mut refuses = joint(|local, peer| {
        local.put(b"some")?;
        peer.put("more")?;
        Err(ConnectorError::Refused)
    });
    let refused = Failed::Connector(ConnectorError::Refused);
    assert_eq!(refuses.incoming(b"x", &mut out), Err(refused));
    let mut panics = joint(|local, _| {
        local.pass()?;
        panic!("on purpose")
    });
    assert_eq!(panics.incoming(b"x", &mut out), Err(Failed::Panicked));
    assert!(out.peer.is_empty() && out.local.is_empty() && !out.passed);
}

#[test]
fn much_memory_is_not_kept() {
    let mut out = Output::default();
    let mut large = joint(|local, _| local.put(&[0; GROWTH]).map(|_| ()));
    large.incoming(b"x", &mut out).unwrap();
    joint(|_, _| Ok(())).incoming(b"x", &mut out).unwrap();
    assert!(out.local.capacity() <= LOCAL_KEPT);
}
