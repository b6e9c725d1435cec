//! Which form of a subscription a client wants: what it says in the address, else who it is.

use crate::api::{
    error::ApiError,
    params::{Pairs, Params},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    SingBox,
    Clash,
    /// Links, one a line, all in base64: what most clients import.
    Base64,
    /// The same as it is.
    Links,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Format::SingBox => "application/json; charset=utf-8",
            Format::Clash => "text/yaml; charset=utf-8",
            Format::Base64 | Format::Links => "text/plain; charset=utf-8",
        }
    }

    /// Of a file with it.
    pub fn extension(self) -> &'static str {
        match self {
            Format::SingBox => "json",
            Format::Clash => "yaml",
            Format::Base64 | Format::Links => "txt",
        }
    }
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The user's page.
    Page,
    /// `tun`: the configuration carries the whole device.
    Body { format: Format, tun: bool },
}

/// The query string of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub wanted: Option<Option<Format>>,
    pub tun: Option<bool>,
}

/// `Some(None)` is the page.
const WORDS: [(&str, Option<Format>); 8] = [
    ("sing-box", Some(Format::SingBox)),
    ("singbox", Some(Format::SingBox)),
    ("clash", Some(Format::Clash)),
    ("mihomo", Some(Format::Clash)),
    ("base64", Some(Format::Base64)),
    ("links", Some(Format::Links)),
    ("html", None),
    ("page", None),
];

impl Asked {
    /// From a query string. Parameters that nobody knows are left alone: apps add their own.
    ///
    /// # Errors
    /// `BadRequest` for a form that does not exist.
    pub fn read(mut pairs: Pairs) -> Result<Self, ApiError> {
        pairs.retain(|(_, value)| !value.is_empty());
        let mut params = Params::new(pairs);
        let wanted = params.word("format", &WORDS)?;
        let tun = params.word("tun", &[("true", true), ("false", false)])?;
        Ok(Asked { wanted, tun })
    }
}

/// Programs by the beginning of their `User-Agent`, in lower case; the more special ones first.
const AGENTS: [(&str, Format); 13] = [
    ("clash", Format::Clash),
    ("flclash", Format::Clash),
    ("mihomo", Format::Clash),
    ("stash", Format::Clash),
    ("sfa", Format::SingBox),
    ("sfi", Format::SingBox),
    ("sfm", Format::SingBox),
    ("sft", Format::SingBox),
    ("sing-box", Format::SingBox),
    ("karing", Format::SingBox),
    ("hiddifynext", Format::SingBox),
    ("v2ray", Format::Base64),
    ("shadowrocket", Format::Base64),
];

/// Apps that bring what a TUN inbound needs.
const APPS: [&str; 6] = ["sfa", "sfi", "sfm", "sft", "karing", "hiddifynext"];

/// The address says it, or the program that asks; a browser sees the page, anything else gets links.
pub fn choose(asked: Asked, user_agent: &str, accept: &str) -> Wanted {
    let agent = user_agent.to_ascii_lowercase();
    let tun = asked.tun.unwrap_or_else(|| APPS.iter().any(|app| agent.starts_with(app)));
    let known = AGENTS.iter().find(|(start, _)| agent.starts_with(start)).map(|(_, format)| *format);
    match (asked.wanted, known) {
        (Some(Some(format)), _) | (None, Some(format)) => Wanted::Body { format, tun },
        (Some(None), _) => Wanted::Page,
        (None, None) if accept.to_ascii_lowercase().contains("text/html") => Wanted::Page,
        (None, None) => Wanted::Body { format: Format::Base64, tun },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(agent: &str, accept: &str) -> Wanted {
        choose(Asked::default(), agent, accept)
    }

    fn body(format: Format, tun: bool) -> Wanted {
        Wanted::Body { format, tun }
    }

    #[test]
    fn programs_get_what_they_read() {
        for (agent, wanted) in [
            ("clash-verge/v2.4.0", body(Format::Clash, false)),
            ("Clash.Meta/1.19", body(Format::Clash, false)),
            ("ClashX Pro/1.118.0 (com.west2online.ClashXPro)", body(Format::Clash, false)),
            ("FlClash/0.8.80", body(Format::Clash, false)),
            ("mihomo/1.19.2", body(Format::Clash, false)),
            ("Stash/3.1.0 Clash/1.9.0", body(Format::Clash, false)),
            ("SFA/1.13.0 (600; sing-box 1.13.0; language zh_CN)", body(Format::SingBox, true)),
            ("SFI/1.12.1 (Build 1; sing-box 1.12.1; language en_US)", body(Format::SingBox, true)),
            ("HiddifyNext/2.5.7 (android) like ClashMeta v2ray sing-box", body(Format::SingBox, true)),
            ("Karing/1.1.2", body(Format::SingBox, true)),
            ("sing-box 1.14.4", body(Format::SingBox, false)),
            ("v2rayN/7.10", body(Format::Base64, false)),
            ("Shadowrocket/2600 CFNetwork", body(Format::Base64, false)),
            ("curl/7.88.1", body(Format::Base64, false)),
            ("", body(Format::Base64, false)),
        ] {
            assert_eq!(of(agent, "*/*"), wanted, "{agent}");
        }
    }

    #[test]
    fn a_browser_sees_the_page_and_the_address_overrules() {
        let browser = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36";
        let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(of(browser, accept), Wanted::Page);
        assert_eq!(of(browser, "*/*"), body(Format::Base64, false));
        let asked = |wanted, tun| Asked { wanted: Some(wanted), tun };
        assert_eq!(choose(asked(Some(Format::Clash), None), browser, accept), body(Format::Clash, false));
        let plain = asked(Some(Format::SingBox), Some(false));
        assert_eq!(choose(plain, "SFA/1.13.0", "*/*"), body(Format::SingBox, false));
        assert_eq!(choose(asked(None, None), "SFA/1.13.0", "*/*"), Wanted::Page);
    }
}
