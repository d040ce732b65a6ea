//! How numbers are written for people.

use std::time::Duration;

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    group(&number.to_string())
}

/// A rate, rounded to whole numbers.
pub(crate) fn per_second(rate: f64) -> String {
    group(&format!("{rate:.0}"))
}

fn group(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn one_decimal(number: f64) -> String {
    format!("{number:.1}")
}

/// Three significant digits and a unit: `8.12 ms`.
pub(crate) fn latency(latency: Duration) -> String {
    let nanos = latency.as_nanos() as f64;
    let (value, unit) = match nanos {
        n if n < 1e6 => (n / 1e3, "us"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let decimals = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A size in bytes with a binary unit.
pub(crate) fn bytes(bytes: f64) -> String {
    let size = bytes.abs();
    match size {
        b if b < 4096.0 => format!("{bytes:.0} B"),
        b if b < 1_048_576.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(per_second(28_904.6), "28,905");
    }

    #[test]
    fn latencies_keep_three_digits() {
        let text = |nanos| latency(Duration::from_nanos(nanos));
        assert_eq!(text(8_123), "8.12 us");
        assert_eq!(text(81_230), "81.2 us");
        assert_eq!(text(812_300_000), "812 ms");
        assert_eq!(text(3_000_000_000), "3.00 s");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes(512.4), "512 B");
        assert_eq!(bytes(8192.0), "8.0 KiB");
        assert_eq!(bytes(3.0 * 1_048_576.0), "3.0 MiB");
    }
}
