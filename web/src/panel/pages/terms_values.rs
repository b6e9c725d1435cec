//! Single values of forms: what was typed as a value, and a value as it stands in its field. A
//! mistake is put to its field, in the reader's language.

use jiff::Zoned;

use super::form::Fields;
use crate::{
    api::{
        time::{BadFuture, Time, parse_future},
        types::Step,
        types::Then,
    },
    locale::Lang,
    units::{UnitError, parse_rate, parse_size},
};

/// A size or no limit; `None` where the field is empty or wrong. With its unit: who types a bare 5 means
/// anything but bytes.
pub fn size(lang: Lang, text: &str, name: &str, fields: &mut Fields) -> Option<Option<u64>> {
    unit(lang, text, name, fields, parse_size, "size")
}

/// A rate or no limit; `None` where the field is empty or wrong.
pub fn rate(lang: Lang, text: &str, name: &str, fields: &mut Fields) -> Option<Option<u64>> {
    unit(lang, text, name, fields, parse_rate, "rate")
}

fn unit(
    lang: Lang,
    text: &str,
    name: &str,
    fields: &mut Fields,
    parse: impl Fn(&str) -> Result<Option<u64>, UnitError>,
    of: &str,
) -> Option<Option<u64>> {
    if text.is_empty() {
        return None;
    }
    let bare = text.bytes().all(|it| it.is_ascii_digit() || it == b'.');
    if bare && matches!(parse(text), Ok(Some(_)) | Err(UnitError::TooSmall(_))) {
        fields.fail(name, lang.text(&format!("panel.unit.missing_{of}")));
        return None;
    }
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            let key = match &error {
                UnitError::Empty | UnitError::Number(_) => &*format!("panel.unit.number_{of}"),
                UnitError::SizeUnit(_) => "panel.unit.size_unit",
                UnitError::RateUnit(_) => "panel.unit.rate_unit",
                UnitError::TooLarge(_) => "panel.unit.too_large",
                UnitError::TooSmall(_) => "panel.unit.too_small",
            };
            fields.fail(name, lang.text(key));
            None
        }
    }
}

/// A whole number or no limit (0); `None` where the field is empty or wrong.
pub fn count(lang: Lang, text: &str, name: &str, fields: &mut Fields) -> Option<Option<u32>> {
    match text {
        "" => None,
        text => match text.parse::<u32>() {
            Ok(0) => Some(None),
            Ok(value) => Some(Some(value)),
            Err(_) => {
                fields.fail(name, lang.text("panel.invalid.count"));
                None
            }
        },
    }
}

/// A time to come; `None` for never, or where it is wrong.
pub fn expiry(lang: Lang, text: &str, now: &Zoned, fields: &mut Fields) -> Option<Time> {
    if text.is_empty() {
        return None;
    }
    match parse_future(text, now) {
        Ok(instant) => Some(Time::new(instant, now.time_zone())),
        Err(error) => {
            let key = match error {
                BadFuture::Form(_) => "panel.invalid.expires",
                BadFuture::Past(_) => "panel.invalid.past",
            };
            fields.fail("expires", lang.text(key));
            None
        }
    }
}

/// Percentages with commas between; `None` where the field is empty or wrong.
pub fn percents(lang: Lang, text: &str, name: &str, fields: &mut Fields) -> Option<Vec<u16>> {
    match text {
        "" => None,
        "0" => Some(Vec::new()),
        text => {
            let one = |it: &str| it.trim().trim_end_matches(['%', ' ']).parse::<u16>();
            let read: Result<Vec<u16>, _> = text.split([',', '，', '、']).map(one).collect();
            if read.is_err() {
                fields.fail(name, lang.text("panel.invalid.warn"));
            }
            read.ok()
        }
    }
}

/// A moment as a field of a date and time has it, in the zone of billing.
pub fn moment_field(time: Option<&Time>, now: &Zoned) -> String {
    time.map_or(String::new(), |it| {
        it.instant.to_zoned(now.time_zone().clone()).strftime("%Y-%m-%dT%H:%M").to_string()
    })
}

/// A size that reads back as exactly itself: `100 GiB`, `1536 MiB`, or plain bytes.
pub fn size_field(value: Option<u64>) -> String {
    let Some(bytes) = value else { return "0".to_owned() };
    let units = [(50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(power, _)| bytes % (1 << power) == 0) {
        Some((power, unit)) => format!("{} {unit}", bytes >> power),
        None => format!("{bytes} B"),
    }
}

/// A rate that reads back as exactly itself: `5 MiB/s`, `100 Mbit/s`, or plain bytes per second.
pub fn rate_field(value: Option<u64>) -> String {
    let Some(rate) = value else { return "0".to_owned() };
    let units = [(30, "GiB/s"), (20, "MiB/s"), (10, "KiB/s")];
    if let Some((power, unit)) = units.iter().find(|(power, _)| rate % (1 << power) == 0) {
        return format!("{} {unit}", rate >> power);
    }
    let bits = u128::from(rate) * 8;
    let units = [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s")];
    match units.iter().find(|(unit, _)| bits.is_multiple_of(*unit)) {
        Some((per, unit)) => format!("{} {unit}", bits / per),
        None => format!("{rate} B/s"),
    }
}

pub fn count_field(value: Option<u32>) -> String {
    value.unwrap_or_default().to_string()
}

/// The word of a ladder in its list: `cut`, `throttle` with its rate, or `steps`, which are kept.
pub fn ladder_field(steps: &[Step]) -> (&'static str, String) {
    match steps {
        [] | [Step { percent: 100, then: Then::Cut }] => ("cut", String::new()),
        [Step { percent: 100, then: Then::Throttle(rate) }] => ("throttle", rate_field(Some(*rate))),
        _ => ("steps", String::new()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_stands_in_a_field_reads_back_exactly(value in 1..=i64::MAX as u64) {
            prop_assert_eq!(parse_size(&size_field(Some(value))), Ok(Some(value)));
            prop_assert_eq!(parse_rate(&rate_field(Some(value))), Ok(Some(value)));
        }
    }

    #[test]
    fn fields_are_short_where_they_can_be() {
        assert_eq!(size_field(Some(100 << 30)), "100 GiB");
        assert_eq!(size_field(Some(1536 << 20)), "1536 MiB");
        assert_eq!(size_field(None), "0");
        assert_eq!(size_field(Some(1_000_001)), "1000001 B");
        assert_eq!(rate_field(Some(5 << 20)), "5 MiB/s");
        assert_eq!(rate_field(Some(12_500_000)), "100 Mbit/s");
        assert_eq!(rate_field(Some(12_500_001)), "12500001 B/s");
    }

    /// A bare 5 was meant as anything but five bytes.
    #[test]
    fn a_size_needs_its_unit() {
        for (text, value) in [
            ("5", None),
            ("5.5", None),
            ("0.5", None),
            ("1048576", None),
            ("0", Some(None)),
            ("5G", Some(Some(5 << 30))),
        ] {
            let mut fields = Fields::default();
            assert_eq!(size(Lang::En, text, "quota", &mut fields), value, "{text}");
            let missing = fields.e("quota") == Lang::En.text("panel.unit.missing_size");
            assert_eq!(missing, value.is_none(), "{text}");
        }
        let mut fields = Fields::default();
        assert_eq!(rate(Lang::ZhCn, "10", "speed_up", &mut fields), None);
        assert_eq!(fields.e("speed_up"), Lang::ZhCn.text("panel.unit.missing_rate"));
    }

    #[test]
    fn percentages_are_read_as_people_type_them() {
        let mut fields = Fields::default();
        assert_eq!(percents(Lang::En, "80, 95 %，100", "warn", &mut fields), Some(vec![80, 95, 100]));
        assert_eq!(percents(Lang::En, "0", "warn", &mut fields), Some(vec![]));
        assert_eq!(percents(Lang::En, "", "warn", &mut fields), None);
        assert!(!fields.wrong());
        assert_eq!(percents(Lang::En, "x", "warn", &mut fields), None);
        assert!(!fields.e("warn").is_empty());
    }
}
