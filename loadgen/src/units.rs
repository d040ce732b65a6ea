//! Quantities as people write them: `10k` peers, `500/s`, `3s`, a source network, a list of cores.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

/// A count of at least one, with an optional `k` (thousand) or `m` (million).
pub(crate) fn count(text: &str) -> Result<u32, String> {
    match number(text)? {
        0 => Err("must be at least 1".into()),
        n => u32::try_from(n).map_err(|_| format!("{text} is more than {}", u32::MAX)),
    }
}

/// Like [`count`], but zero is fine.
pub(crate) fn count_or_zero(text: &str) -> Result<u32, String> {
    u32::try_from(number(text)?).map_err(|_| format!("{text} is more than {}", u32::MAX))
}

fn number(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_000),
        None => match text.strip_suffix(['m', 'M']) {
            Some(digits) => (digits, 1_000_000),
            None => (text, 1),
        },
    };
    let plain: String = digits.chars().filter(|c| !matches!(c, ',' | '_')).collect();
    let n: u64 = plain
        .parse()
        .map_err(|_| format!("{text:?} is no number such as 500, 10k or 1m"))?;
    n.checked_mul(factor)
        .ok_or_else(|| format!("{text} is too large"))
}

/// A duration such as `3s`, `500ms` or `1m 30s`, longer than zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if parsed.is_zero() {
        return Err("must be longer than zero".into());
    }
    Ok(parsed)
}

/// Arrivals per time, kept in thousandths per second so that plans are exact integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    milli_per_second: u64,
}

impl Rate {
    /// `count` arrivals a second.
    pub(crate) fn per_second_of(count: u32) -> Self {
        Self {
            milli_per_second: u64::from(count.max(1)) * 1_000,
        }
    }

    /// When arrival `index` (from 0) is due, in nanoseconds after the first.
    pub(crate) fn due_nanos(self, index: u64) -> u64 {
        let nanos = u128::from(index) * 1_000_000_000_000 / u128::from(self.milli_per_second);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// How many arrivals are due before `nanos` after the first.
    pub(crate) fn arrivals_before(self, nanos: u64) -> u64 {
        let due =
            (u128::from(nanos) * u128::from(self.milli_per_second)).div_ceil(1_000_000_000_000);
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    pub(crate) fn per_second(self) -> f64 {
        // A rate above 2^53 thousandths is beyond any machine; rounding there is harmless.
        self.milli_per_second as f64 / 1e3
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (amount, seconds) = match text.split_once('/') {
            None => (text, 1),
            Some((amount, "s" | "sec" | "second")) => (amount, 1),
            Some((amount, "m" | "min" | "minute")) => (amount, 60),
            Some((_, unit)) => return Err(format!("unknown time unit {unit:?}: use /s or /m")),
        };
        let milli_per_second = number(amount)?
            .checked_mul(1_000)
            .ok_or_else(|| format!("{text} is too large"))?
            / seconds;
        if milli_per_second == 0 {
            return Err("must be more than zero".into());
        }
        Ok(Self { milli_per_second })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second())
    }
}

/// The addresses simulated peers dial from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    /// Whatever the kernel picks.
    Kernel,
    /// Consecutive addresses; peer `k` owns number `k` modulo `count`.
    Range { first: IpAddr, count: u32 },
}

impl Sources {
    /// The default on loopback: 65,536 addresses, none of them 127.0.0.1.
    pub(crate) const LOOPBACK: Self = Self::Range {
        first: IpAddr::V4(Ipv4Addr::new(127, 1, 0, 0)),
        count: 1 << 16,
    };

    /// The source address of a peer.
    pub(crate) fn of(self, peer: u32) -> Option<IpAddr> {
        let Self::Range { first, count } = self else {
            return None;
        };
        let offset = peer % count;
        Some(match first {
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(offset)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(offset.into())).into(),
        })
    }

    /// How many different addresses `peers` peers use.
    pub(crate) fn used_by(self, peers: u32) -> u32 {
        match self {
            Self::Kernel => 1,
            Self::Range { count, .. } => count.min(peers).max(1),
        }
    }

    /// Whether these addresses can reach `target`.
    pub(crate) fn fit(self, target: IpAddr) -> bool {
        match self {
            Self::Kernel => true,
            Self::Range { first, .. } => first.is_ipv4() == target.is_ipv4(),
        }
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Kernel);
        }
        if let Ok(net) = text.parse::<IpNet>() {
            let bits = u32::from(net.max_prefix_len() - net.prefix_len());
            return Ok(Self::Range {
                first: net.network(),
                count: 1u32.checked_shl(bits).unwrap_or(u32::MAX),
            });
        }
        let count = count(text).map_err(|_| {
            format!("{text:?} is neither a network (127.1.0.0/16), a count (500) nor none")
        })?;
        if count > 1 << 23 {
            return Err("at most 8388608 loopback addresses; give a network for more".into());
        }
        Ok(Self::Range {
            first: Ipv4Addr::new(127, 1, 0, 0).into(),
            count,
        })
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("chosen by the kernel"),
            Self::Range { first, count } => write!(f, "{count} from {first} on"),
        }
    }
}

/// Processor numbers: `0`, `0,2` or `0-3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpus(pub(crate) Vec<usize>);

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no list of processors such as 0, 0,2 or 0-3");
        let number = |part: &str| part.trim().parse::<usize>().ok().filter(|&n| n < 1024);
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low).ok_or_else(bad)?, number(high).ok_or_else(bad)?);
            if low > high {
                return Err(bad());
            }
            cpus.extend(
                (low..=high)
                    .filter(|cpu| !cpus.contains(cpu))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_suffixes_and_refuse_nonsense() {
        assert_eq!(count("10k"), Ok(10_000));
        assert_eq!(count("20,000"), Ok(20_000));
        assert_eq!(count("1m"), Ok(1_000_000));
        assert_eq!(count_or_zero("0"), Ok(0));
        for bad in ["0", "", "k", "-1", "5000m", "ten", "99999999999999999999"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_a_length() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(duration("5").is_err());
        assert!(duration("0s").is_err());
    }

    #[test]
    fn rates_place_arrivals_exactly() {
        let rate: Rate = "500/s".parse().unwrap();
        assert_eq!(rate.due_nanos(0), 0);
        assert_eq!(rate.due_nanos(500), 1_000_000_000);
        assert_eq!(rate.arrivals_before(1_000_000_000), 500);
        assert_eq!(rate.arrivals_before(1_000_000_001), 501);
        assert_eq!("30/m".parse::<Rate>().unwrap().due_nanos(1), 2_000_000_000);
        assert_eq!("10k".parse::<Rate>().unwrap().per_second(), 10_000.0);
        for bad in ["0/s", "5/h", "/s", "x"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sources_are_networks_counts_or_none() {
        let net: Sources = "127.9.0.0/30".parse().unwrap();
        assert_eq!(net.of(5), Some("127.9.0.1".parse().unwrap()));
        assert_eq!(net.used_by(100), 4);
        assert_eq!(net.used_by(3), 3);
        assert_eq!("none".parse::<Sources>().unwrap().of(5), None);
        assert_eq!(
            "64".parse::<Sources>().unwrap().of(63),
            Some("127.1.0.63".parse().unwrap())
        );
        assert!(
            "fd00::/64"
                .parse::<Sources>()
                .unwrap()
                .fit("::1".parse().unwrap())
        );
        assert!(!net.fit("::1".parse().unwrap()));
        for bad in ["0", "9m", "127.0.0.1/33", "all"] {
            assert!(bad.parse::<Sources>().is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_are_lists_and_ranges() {
        assert_eq!("0,2-3,2".parse::<Cpus>().unwrap().0, [0, 2, 3]);
        assert_eq!("1".parse::<Cpus>().unwrap().to_string(), "1");
        for bad in ["", "a", "3-1", "5000", "0,,1"] {
            assert!(bad.parse::<Cpus>().is_err(), "{bad}");
        }
    }
}
