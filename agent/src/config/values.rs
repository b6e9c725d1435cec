//! How values that are more than a string or a number are written in the configuration.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How sing-box is told to read its configuration again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reload {
    /// The systemd unit whose main process it is, else a signal.
    #[default]
    Auto,
    Systemd(String),
    Signal,
    Command(String),
    Never,
}

/// A path, or `auto`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AutoPath {
    #[default]
    Auto,
    Path(PathBuf),
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reload::Auto => f.write_str("auto"),
            Reload::Systemd(unit) => write!(f, "systemd:{unit}"),
            Reload::Signal => f.write_str("signal"),
            Reload::Command(command) => write!(f, "command:{command}"),
            Reload::Never => f.write_str("never"),
        }
    }
}

impl Serialize for Reload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(':') {
            None if text == "auto" => Ok(Reload::Auto),
            None if text == "signal" => Ok(Reload::Signal),
            None if text == "never" => Ok(Reload::Never),
            Some(("systemd", unit)) if !unit.trim().is_empty() => Ok(Reload::Systemd(unit.trim().to_owned())),
            Some(("command", command)) if !command.trim().is_empty() => {
                Ok(Reload::Command(command.trim().to_owned()))
            }
            _ => Err(de::Error::custom(
                "expected \"auto\", \"systemd:UNIT\", \"signal\", \"command:…\" or \"never\"",
            )),
        }
    }
}

impl Serialize for AutoPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            AutoPath::Auto => serializer.serialize_str("auto"),
            AutoPath::Path(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AutoPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(AutoPath::Auto),
            path if path.starts_with('/') => Ok(AutoPath::Path(PathBuf::from(path))),
            _ => Err(de::Error::custom("expected \"auto\" or an absolute path")),
        }
    }
}

/// Durations as people write them: one whole number and a unit.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", duration.as_millis()))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| {
            de::Error::custom("expected a duration as \"500ms\", \"1s\", \"10m\", \"2h\" or \"1d\"")
        })
    }

    pub(in crate::config) fn parse(text: &str) -> Option<Duration> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..digits].parse().ok()?;
        let unit = text[digits..].trim_start();
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        Some(Duration::from_millis(number.checked_mul(*factor)?))
    }
}

/// The same, or `never`.
pub(super) mod duration_or_never {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::duration;

    const NEVER: &str = "never";

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => duration::serialize(duration, serializer),
            None => serializer.serialize_str(NEVER),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match duration::parse(&text) {
            None if text == NEVER => Ok(None),
            None => Err(de::Error::custom("expected a duration as \"12h\" or \"1d\", or \"never\"")),
            some => Ok(some),
        }
    }
}
