//! Sizes and rates as people type and read them.
//!
//! Inside, sizes are bytes and rates are bytes per second, both whole numbers; nothing here goes
//! through floating point. Of bytes, `GB`, `G` and `GiB` all mean 1024³, because that is what people
//! mean who type them; of bits, prefixes are powers of 1000, because that is how links are sold.

use std::fmt;

/// What is wrong with a size or a rate that somebody typed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("a size is missing: write for example 100GiB, or 0 for no limit")]
    Empty,
    #[error("\"{0}\" is not a number with a unit: write for example 100GiB, 1.5TiB or 500M")]
    Number(String),
    #[error("\"{0}\" is not a unit of bytes: use B, KiB, MiB, GiB, TiB or PiB")]
    SizeUnit(String),
    #[error("\"{0}\" is not a unit of a rate: use for example MiB/s or Mbit/s")]
    RateUnit(String),
    #[error("\"{0}\" is too large")]
    TooLarge(String),
    #[error("\"{0}\" is less than one byte: write 0 for no limit")]
    TooSmall(String),
}

/// Digits after the decimal point that are read; more change nothing that anybody would notice.
const FRACTION_DIGITS: usize = 9;

/// Parses a size: `100GiB`, `100G`, `1.5 TiB`, `1048576`. `None` for `0`, `none` and `off`: no limit.
pub fn parse_size(text: &str) -> Result<Option<u64>, UnitError> {
    parse(text, size_unit)
}

/// Parses a rate in bytes per second: `1MiB/s`, `1M`, `8Mbit/s`, `8Mbps`. `None` for `0`, `none` and `off`.
pub fn parse_rate(text: &str) -> Result<Option<u64>, UnitError> {
    parse(text, rate_unit)
}

/// The words that mean "no limit" wherever a limit may be typed.
pub fn is_off(text: &str) -> bool {
    let text = text.trim();
    text == "0" || text.eq_ignore_ascii_case("none") || text.eq_ignore_ascii_case("off")
}

/// A unit as a fraction of bytes: bits are eighths.
type Unit = (u128, u128);

fn parse(text: &str, unit: impl FnOnce(&str) -> Result<Unit, UnitError>) -> Result<Option<u64>, UnitError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(UnitError::Empty);
    }
    if is_off(text) {
        return Ok(None);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (numerator, denominator) = decimal(number, text)?;
    let (bytes, per) = unit(suffix.trim())?;
    if numerator == 0 {
        return Ok(None);
    }
    let too_large = || UnitError::TooLarge(text.to_owned());
    let value = numerator.checked_mul(bytes).ok_or_else(too_large)? / (denominator * per);
    match u64::try_from(value) {
        // The ledger's integers are signed.
        Ok(0) => Err(UnitError::TooSmall(text.to_owned())),
        Ok(value) if i64::try_from(value).is_ok() => Ok(Some(value)),
        _ => Err(too_large()),
    }
}

/// A decimal number as a fraction.
fn decimal(number: &str, text: &str) -> Result<(u128, u128), UnitError> {
    let wrong = || UnitError::Number(text.to_owned());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(wrong());
    }
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let digits = |digits: &str| match digits {
        "" => Ok(0),
        digits => digits.parse::<u64>().map_err(|_| UnitError::TooLarge(text.to_owned())),
    };
    let denominator = fraction.bytes().fold(1_u128, |denominator, _| denominator * 10);
    Ok((u128::from(digits(whole)?) * denominator + u128::from(digits(fraction)?), denominator))
}

fn size_unit(unit: &str) -> Result<Unit, UnitError> {
    let lower = unit.to_ascii_lowercase();
    let prefix = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let bare_ib = lower == "ib";
    let power = prefix_power(prefix).filter(|_| !bare_ib);
    power.map(|power| (1024_u128.pow(power), 1)).ok_or_else(|| UnitError::SizeUnit(unit.to_owned()))
}

fn rate_unit(unit: &str) -> Result<Unit, UnitError> {
    let wrong = || UnitError::RateUnit(unit.to_owned());
    let lower = unit.to_ascii_lowercase();
    let bits = ["bit/s", "bits/s", "bps", "bit"].iter().find_map(|suffix| lower.strip_suffix(suffix));
    if let Some(prefix) = bits {
        let power = prefix_power(prefix).ok_or_else(wrong)?;
        return Ok((1000_u128.pow(power), 8));
    }
    size_unit(lower.strip_suffix("/s").unwrap_or(&lower)).map_err(|_| wrong())
}

fn prefix_power(prefix: &str) -> Option<u32> {
    match prefix {
        "" => Some(0),
        "k" => Some(1),
        "m" => Some(2),
        "g" => Some(3),
        "t" => Some(4),
        "p" => Some(5),
        "e" => Some(6),
        _ => None,
    }
}

/// A size for people: `0 B`, `1023 B`, `1.50 GiB`, `12.3 GiB`, `123 GiB`. Three digits, cut and not
/// rounded, so that what is left never looks like more than it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A rate in bytes per second for people: `1.50 MiB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = if self.0 == 0 { 0 } else { self.0.ilog2() / 10 };
        if power == 0 {
            return f.pad(&format!("{} B", self.0));
        }
        let hundredths = u128::from(self.0) * 100 / (1_u128 << (10 * power));
        let (whole, rest) = (hundredths / 100, hundredths % 100);
        let unit = UNITS[power as usize];
        f.pad(&match whole {
            0..10 => format!("{whole}.{rest:02} {unit}"),
            10..100 => format!("{whole}.{} {unit}", rest / 10),
            _ => format!("{whole} {unit}"),
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", Size(self.0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn sizes_that_people_type() {
        for (text, bytes) in [
            ("100GiB", 100 * GIB),
            ("100G", 100 * GIB),
            ("100 GB", 100 * GIB),
            ("100gb", 100 * GIB),
            ("1.5TiB", 1536 * GIB),
            (".5k", 512),
            ("2.m", 2 * MIB),
            ("1048576", MIB),
            ("7b", 7),
            (" 1 KiB ", 1024),
            ("8191PiB", 8191 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(Some(bytes)), "{text}");
        }
    }

    #[test]
    fn no_limit() {
        for text in ["0", "none", "None", "0GiB", "0.0", "off", "OFF", " 0 "] {
            assert_eq!(parse_size(text), Ok(None), "{text}");
            assert_eq!(parse_rate(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn rates_that_people_type() {
        for (text, bytes) in [
            ("8Mbit/s", 1_000_000),
            ("8 mbps", 1_000_000),
            ("100Mbit", 12_500_000),
            ("1Gbit/s", 125_000_000),
            ("1MiB/s", MIB),
            ("1MB/s", MIB),
            ("1M", MIB),
            ("0.5MiB/s", MIB / 2),
            ("8bit/s", 1),
            ("500", 500),
        ] {
            assert_eq!(parse_rate(text), Ok(Some(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        use UnitError::{Empty, Number, RateUnit, SizeUnit, TooLarge, TooSmall};
        let text = String::from;
        assert_eq!(parse_size(" "), Err(Empty));
        for wrong in ["GiB", "-1GiB", "1.2.3G", "."] {
            assert_eq!(parse_size(wrong), Err(Number(text(wrong))));
        }
        for (wrong, unit) in [("1XiB", "XiB"), ("1ib", "ib"), ("1 000", "000"), ("1MiB/s", "MiB/s")] {
            assert_eq!(parse_size(wrong), Err(SizeUnit(text(unit))), "{wrong}");
        }
        assert_eq!(parse_rate("1Mbit/h"), Err(RateUnit(text("Mbit/h"))));
        for wrong in ["8192PiB", "99999999999999999999", "18446744073709551615PiB"] {
            assert_eq!(parse_size(wrong), Err(TooLarge(text(wrong))));
        }
        assert_eq!(parse_size("0.1"), Err(TooSmall(text("0.1"))));
    }

    #[test]
    fn sizes_that_people_read() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (MIB - 1, "1023 KiB"),
            (1536 * MIB, "1.50 GiB"),
            (12 * GIB + GIB / 3, "12.3 GiB"),
            (100 * GIB - 1, "99.9 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(Rate(MIB).to_string(), "1.00 MiB/s");
        assert_eq!(format!("{:>10}|", Size(5)), "       5 B|");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = parse_size(&text);
            let _ = parse_rate(&text);
        }

        #[test]
        fn plain_bytes_are_exact(bytes in 1..=i64::MAX as u64) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(Some(bytes)));
        }

        #[test]
        fn numbers_near_the_syntax_never_panic(text in "[0-9.]{0,24} ?[kKmMgGtTpP]?(i?[bB]|bit)?(/s)?") {
            let _ = parse_size(&text);
            let _ = parse_rate(&text);
        }

        #[test]
        fn what_is_shown_reads_back_as_at_most_a_hundredth_less(bytes in 1..=i64::MAX as u64) {
            let shown = parse_size(&Size(bytes).to_string()).expect("own format").expect("not 0");
            prop_assert!(shown <= bytes);
            prop_assert!(bytes - shown <= bytes / 100 + 1, "{} shown as {}", bytes, Size(bytes));
        }
    }
}
