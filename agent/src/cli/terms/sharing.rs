//! `--sharing`: what is done when an account is shared, and from when on.

use boxmeter_web::api::terms::{Overrides, Sharing, SharingAction};

use super::{Given, checked, given, throttle};
use crate::units::is_off;

const SHARING_FORMS: &str = "give note, warn, suspend or throttle:RATE, if wanted after more networks \
                             than so many within so long, as 3/5m=warn, or 0";

pub(super) fn sharing(text: &str) -> Result<Given<Sharing>, String> {
    given(text, |text| {
        let wrong = || SHARING_FORMS.to_owned();
        let mut sharing = Sharing::default();
        if is_off(text) {
            return Ok(Sharing { networks: 0, ..sharing });
        }
        // What comes before the action may stand alone, and the action as well.
        let (when, action) = match text.split_once('=') {
            Some((when, action)) => (Some(when), action.trim()),
            None if text.contains('/') && !text.starts_with("throttle:") => (Some(text), "note"),
            None => (None, text),
        };
        if let Some(when) = when {
            let (networks, within) = when.split_once('/').ok_or_else(wrong)?;
            sharing.networks = match networks.trim() {
                networks if is_off(networks) => 0,
                networks => networks.parse().map_err(|_| wrong())?,
            };
            sharing.window_s = seconds(within.trim()).ok_or_else(wrong)?;
        }
        sharing.action = match action {
            "note" => SharingAction::Note,
            "warn" => SharingAction::Warn,
            "suspend" => SharingAction::Suspend,
            other => SharingAction::Throttle(throttle(other)?.ok_or_else(wrong)?),
        };
        checked(Overrides { sharing: Some(sharing), ..Overrides::default() }, sharing)
    })
}

/// `90s`, `5m`, `1h`.
fn seconds(text: &str) -> Option<u32> {
    let unit = text.chars().last()?;
    let number: u32 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        _ => return None,
    };
    number.checked_mul(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_off_in_every_form() {
        for text in ["0", "none", "OFF", "0/5m", "none/5m", "0/5m=warn"] {
            let Ok(Given::Own(read)) = sharing(text) else { panic!("{text}: {:?}", sharing(text)) };
            assert_eq!(read.networks, 0, "{text}");
        }
        let Ok(Given::Own(read)) = sharing("4/2m") else { panic!("a threshold alone") };
        assert_eq!((read.networks, read.window_s, read.action), (4, 120, SharingAction::Note));
        assert_eq!(sharing("policy"), Ok(Given::Policy));
    }
}
