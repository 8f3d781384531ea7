//! Sizes and times as people write them.

use std::time::Duration;

/// Why a text is no size or time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no {what}: {why} ({hint})")]
pub struct UnitError {
    given: String,
    what: &'static str,
    why: String,
    hint: &'static str,
}

impl UnitError {
    pub(crate) fn new(given: &str, what: &'static str, why: &str, hint: &'static str) -> Self {
        Self {
            given: given.chars().take(80).collect(),
            what,
            why: why.into(),
            hint,
        }
    }
}

const SIZE_HINT: &str = "write bytes or 512K, 512M, 1.5G, 1GiB; K, M, G, T are powers of 1024";
const TIME_HINT: &str = "write seconds or 500ms, 90s, 1.5h, 1h30m, 2d";

/// Parses a size into bytes: `4096`, `512K`, `512M`, `1.5G`, `2GiB`, `1MB`. As in systemd and the kernel, a
/// letter is a power of 1024 whether or not `B` or `iB` follows it.
///
/// # Errors
/// If the text is empty, negative, of an unknown unit, or larger than 2^63 − 1.
pub fn parse_size(given: &str) -> Result<u64, UnitError> {
    let err = |why: &str| UnitError::new(given, "size", why, SIZE_HINT);
    let text = given.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let letter = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let shift = match letter {
        "" if unit == "ib" => return Err(err("unknown unit")),
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(err("unknown unit")),
    };
    scale(number, shift).ok_or_else(|| err("not a number, or too large"))
}

/// `number` × 2^`shift`, exactly, rounded down to a byte; `None` when it is no decimal or overflows an `i64`.
fn scale(number: &str, shift: u32) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let parse = |digits: &str| {
        if digits.is_empty() {
            Some(0)
        } else {
            digits.parse::<u128>().ok()
        }
    };
    let unit = 1u128 << shift;
    let part = parse(fraction)?.checked_mul(unit)? / 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let bytes = parse(whole)?.checked_mul(unit)?.checked_add(part)?;
    i64::try_from(bytes).ok().and_then(|b| u64::try_from(b).ok())
}

/// Parses a time: a bare number is seconds (`90`, `0.5`), else the usual units, `500ms`, `1.5h`, `1h30m`, `2d`.
///
/// # Errors
/// If the text is empty, negative, of an unknown unit, or longer than 100 years.
pub fn parse_duration(given: &str) -> Result<Duration, UnitError> {
    let err = |why: String| UnitError::new(given, "time", &why, TIME_HINT);
    let text = given.trim();
    let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let days = text
        .strip_suffix('d')
        .filter(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
    let parsed = if bare {
        text.parse()
            .map_err(|_| err("not a number".into()))
            .and_then(|s| Duration::try_from_secs_f64(s).map_err(|_| err("too long".into())))?
    } else if let Some(days) = days {
        let days: u64 = days.parse().map_err(|_| err("too long".into()))?;
        Duration::from_secs(days.checked_mul(86_400).ok_or_else(|| err("too long".into()))?)
    } else {
        let span: jiff::SignedDuration = text.parse().map_err(|e: jiff::Error| err(e.to_string()))?;
        Duration::try_from(span).map_err(|_| err("it is negative".into()))?
    };
    if parsed > Duration::from_secs(100 * 366 * 86_400) {
        return Err(err("longer than 100 years".into()));
    }
    Ok(parsed)
}

/// Bytes for a person: `4.1 GiB`, `512 B`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A time for a person: `12 ms`, `1.5 s`, `3 m 20 s`, `2 h 5 m`.
#[must_use]
pub fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 if time.as_millis() == 0 => format!("{} µs", time.as_micros()),
        0 => format!("{} ms", time.as_millis()),
        1..=59 => format!("{:.1} s", time.as_secs_f64()),
        60..=3599 => format!("{} m {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_in_the_usual_spellings() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("1.5G", 3 << 29),
            ("2GiB", 2 << 30),
            ("1MB", 1 << 20),
            ("100b", 100),
            (" 8 K ", 8 << 10),
            (".5k", 512),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "M",
            "-1",
            "1X",
            "1e3",
            "1.2.3",
            "9999999999G",
            "1iB",
            "max",
            "０",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_in_the_usual_spellings() {
        for (text, millis) in [
            ("90", 90_000),
            ("0.5", 500),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
            ("1s", 1000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "-5s",
            "h",
            "5 parsecs",
            "99999999999999999999",
            "1e400",
            "inf",
            "NaN",
            "101y",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_size(&text);
            let _ = parse_duration(&text);
        }

        #[test]
        fn whole_sizes_are_exact(n in 0u64..1 << 20, unit in 0usize..4) {
            let text = format!("{n}{}", ["", "K", "MiB", "GB"][unit]);
            prop_assert_eq!(parse_size(&text), Ok(n << (10 * unit)));
        }
    }
}
