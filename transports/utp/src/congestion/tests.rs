use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const MSS: u16 = 1_400;

/// A bottleneck with a queue, and one flow over it whose acknowledgements come as its packets
/// leave the queue: enough to see a controller's law at work.
struct Bottleneck {
    rate: u64,
    base: Duration,
    now: Instant,
    free_at: Instant,
    in_flight: VecDeque<(Instant, Instant, u64)>,
    min_rtt: Duration,
    srtt: Duration,
}

impl Bottleneck {
    fn new(megabits: u64, base: Duration) -> Self {
        let now = Instant::from_nanos(1 << 40);
        Self {
            rate: megabits * 125_000,
            base,
            now,
            free_at: now,
            in_flight: VecDeque::new(),
            min_rtt: base,
            srtt: base,
        }
    }

    /// Runs `controller` for `span`, `load` bytes of others standing in the queue; bytes
    /// delivered and the mean queueing delay in microseconds.
    fn run(&mut self, controller: &mut Controller, span: Duration, load: Duration) -> (u64, u64) {
        let end = self.now + span;
        let (mut delivered, mut delays, mut count) = (0, 0, 0);
        while self.now < end {
            let flying: u64 = self.in_flight.iter().map(|packet| packet.2).sum();
            if flying == 0 || flying + u64::from(MSS) <= controller.window() {
                let serve = Duration::from_nanos(u64::from(MSS) * 1_000_000_000 / self.rate);
                self.free_at = self.free_at.max(self.now) + serve;
                let back = self.free_at + self.base + load;
                self.in_flight.push_back((self.now, back, MSS.into()));
                continue;
            }
            let (sent, back, bytes) = self.in_flight.pop_front().expect("a window of some");
            self.now = self.now.max(back);
            let rtt = back - sent;
            self.min_rtt = self.min_rtt.min(rtt);
            self.srtt = (self.srtt * 7 + rtt) / 8;
            delivered += bytes;
            let queueing = rtt.saturating_sub(self.base);
            delays += u64::try_from(queueing.as_micros()).unwrap();
            count += 1;
            controller.on_ack(&AckInfo {
                now: self.now,
                bytes,
                srtt: self.srtt,
                rtt,
                min_rtt: self.min_rtt,
                queueing: Some(queueing),
                app_limited: false,
                recovering: false,
            });
        }
        (delivered, delays / count.max(1))
    }
}

fn ledbat() -> Controller {
    Controller::new(Congestion::default(), MSS)
}

fn plus() -> Controller {
    let target = Duration::from_millis(60);
    Controller::new(Congestion::LedbatPlusPlus { target }, MSS)
}

const BASE: Duration = Duration::from_millis(50);
const NONE: Duration = Duration::ZERO;

#[test]
fn slow_start_fills_a_hundred_megabits_in_time() {
    for mut controller in [ledbat(), plus(), Controller::new(Congestion::Cubic, MSS)] {
        let mut path = Bottleneck::new(100, BASE);
        path.run(&mut controller, Duration::from_millis(1_000), NONE);
        let (bytes, _) = path.run(&mut controller, Duration::from_millis(250), NONE);
        let share = bytes as f64 / (12_500_000.0 / 4.0);
        assert!(
            share > 0.8 || matches!(controller.law, Law::Plus(_)),
            "{share} {controller:?}"
        );
    }
}

#[test]
fn ledbat_settles_at_its_target() {
    let mut controller = ledbat();
    let mut path = Bottleneck::new(20, BASE);
    path.run(&mut controller, Duration::from_secs(60), NONE);
    let (bytes, delay) = path.run(&mut controller, Duration::from_secs(20), NONE);
    assert!(bytes > 20 * 2_500_000 * 97 / 100, "{bytes}");
    assert!((60_000..=105_000).contains(&delay), "{delay}");
}

#[test]
fn ledbat_gives_way_to_a_standing_queue_and_comes_back() {
    let mut controller = ledbat();
    let mut path = Bottleneck::new(100, BASE);
    path.run(&mut controller, Duration::from_secs(10), NONE);
    path.run(
        &mut controller,
        Duration::from_secs(10),
        Duration::from_millis(600),
    );
    assert!(
        controller.window() < 20 * u64::from(MSS),
        "{}",
        controller.window()
    );
    path.run(&mut controller, Duration::from_secs(30), NONE);
    let (bytes, _) = path.run(&mut controller, Duration::from_secs(1), NONE);
    assert!(bytes > 5_000_000, "{bytes}");
}

#[test]
fn plus_slows_down_periodically_for_a_tenth_of_the_time() {
    let mut controller = plus();
    let mut path = Bottleneck::new(20, BASE);
    path.run(&mut controller, Duration::from_secs(5), NONE);
    let (mut slow, mut all) = (0, 0);
    for _ in 0..2_000 {
        path.run(&mut controller, Duration::from_millis(20), NONE);
        slow += u32::from(controller.window() <= controller.floor());
        all += 1;
    }
    assert!(slow > 0 && slow < all / 8, "{slow} of {all}");
    let (bytes, delay) = path.run(&mut controller, Duration::from_secs(20), NONE);
    assert!(bytes > 20 * 2_500_000 * 80 / 100, "{bytes}");
    assert!(delay < 65_000, "{delay}");
}

#[test]
fn cubic_grows_as_its_law_says() {
    let mut controller = Controller::new(Congestion::Cubic, MSS);
    controller.window = 1_000 * u64::from(MSS);
    controller.on_congestion(Instant::from_nanos(1 << 40));
    assert_eq!(controller.window(), 700 * u64::from(MSS));
    // K = cbrt(300 / 0.4) = 9.09 s until the window is where it was.
    let mut path = Bottleneck::new(10_000, Duration::from_millis(100));
    path.run(&mut controller, Duration::from_secs(9), NONE);
    let segments = controller.window() / u64::from(MSS);
    assert!((970..=1_030).contains(&segments), "{segments}");
    path.run(&mut controller, Duration::from_secs(9), NONE);
    let segments = controller.window() / u64::from(MSS);
    assert!((1_250..=1_350).contains(&segments), "{segments}");
}

#[test]
fn a_mistaken_event_is_taken_back() {
    for mut controller in [ledbat(), plus(), Controller::new(Congestion::Cubic, MSS)] {
        let before = controller.window();
        controller.on_timeout(Instant::ZERO);
        controller.on_timeout(Instant::ZERO);
        assert!(controller.window() < before);
        controller.on_spurious();
        assert_eq!(controller.window(), before);
    }
}

#[test]
fn what_was_sent_before_a_timeout_does_not_open_the_window_at_once() {
    for mut controller in [ledbat(), plus(), Controller::new(Congestion::Cubic, MSS)] {
        controller.window = 100 * u64::from(MSS);
        controller.on_timeout(Instant::ZERO);
        let before = controller.window();
        controller.on_ack(&AckInfo {
            now: Instant::ZERO + BASE,
            bytes: 46 * u64::from(MSS),
            srtt: BASE,
            rtt: BASE,
            min_rtt: BASE,
            queueing: None,
            app_limited: false,
            recovering: false,
        });
        assert!(controller.window() <= 2 * before, "{controller:?}");
    }
}

#[test]
fn a_fixed_rate_stays() {
    let mut controller = Controller::new(Congestion::FixedRate(1_000_000), MSS);
    controller.on_congestion(Instant::ZERO);
    controller.on_timeout(Instant::ZERO);
    assert_eq!(controller.pacing_rate(None), Some(1_000_000));
}

#[test]
fn a_controller_is_small() {
    assert!(
        size_of::<Controller>() <= 160,
        "{}",
        size_of::<Controller>()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happens in whatever order, there is a window to go on with, and time can pass.
    #[test]
    fn no_state_is_stuck(kind in 0..3_u8, steps in prop::collection::vec((0..6_u8, 0..100_000_u64, 0..2_000_u64, 0..2_000_u64), 1..200)) {
        let mut controller = match kind {
            0 => ledbat(),
            1 => plus(),
            _ => Controller::new(Congestion::Cubic, MSS),
        };
        let mut now = Instant::from_nanos(1 << 40);
        for (what, bytes, millis, delay) in steps {
            now = now + Duration::from_millis(millis);
            let rtt = Duration::from_millis(delay) + Duration::from_micros(1);
            match what {
                0 => controller.on_congestion(now),
                1 => controller.on_spurious(),
                2 => controller.on_timeout(now),
                3 => controller.on_mss(500 + u16::try_from(bytes % 8_000).unwrap()),
                _ => controller.on_ack(&AckInfo {
                    now,
                    bytes,
                    srtt: rtt,
                    rtt,
                    min_rtt: rtt / 2,
                    queueing: (what == 4).then_some(rtt / 2),
                    app_limited: bytes % 7 == 0,
                    recovering: bytes % 5 == 0,
                }),
            }
            prop_assert!(controller.window() >= controller.floor());
            prop_assert!(controller.window() <= CEILING);
            prop_assert!(controller.threshold >= controller.floor());
            prop_assert!(controller.pacing_rate(Some(rtt)).is_some_and(|rate| rate > 0));
        }
        // From wherever it is, an empty path fills again.
        let mut path = Bottleneck::new(10, BASE);
        path.now = now;
        path.free_at = now;
        path.run(&mut controller, Duration::from_secs(40), NONE);
        let (bytes, _) = path.run(&mut controller, Duration::from_secs(10), NONE);
        prop_assert!(bytes > 10 * 1_250_000 * 6 / 10, "{bytes} {controller:?}");
    }
}
