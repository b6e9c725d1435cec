//! `[panel]`: where the panel is, and who may speak for others.

use std::net::SocketAddr;

use boxmeter_web::panel::options::Network;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Panel {
    pub listen: SocketAddr,
    /// For subscription links; empty: none.
    pub public_url: String,
    /// Serves only `/s/`; empty: nowhere.
    pub public_listen: String,
    /// Addresses or networks whose forwarded addresses count.
    pub trusted_proxies: Vec<String>,
    pub base_path: String,
    /// Both empty: no TLS.
    pub tls_cert: String,
    pub tls_key: String,
    /// `auto`: the browser's wish.
    pub language: Language,
}

impl Default for Panel {
    fn default() -> Self {
        Panel {
            listen: SocketAddr::from(([127, 0, 0, 1], 8790)),
            public_url: String::new(),
            public_listen: String::new(),
            trusted_proxies: Vec::new(),
            base_path: String::new(),
            tls_cert: String::new(),
            tls_key: String::new(),
            language: Language::Auto,
        }
    }
}

impl Panel {
    /// As its keys are read; `check` has read them once.
    ///
    /// # Errors
    /// For what is no address and no network.
    pub fn proxies(&self) -> Result<Vec<Network>, String> {
        self.trusted_proxies.iter().map(|text| text.parse()).collect()
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        if self.tls_cert.is_empty() != self.tls_key.is_empty() {
            return Err(("panel.tls_cert", "needs panel.tls_key too, and the other way round".to_owned()));
        }
        let public = &self.public_listen;
        if !public.is_empty() && public.parse::<SocketAddr>().is_err() {
            let text = "must be an address and a port, as \"0.0.0.0:8791\"";
            return Err(("panel.public_listen", text.to_owned()));
        }
        let url = &self.public_url;
        let web = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        if !url.is_empty() && web.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Err((
                "panel.public_url",
                "must be an address as \"https://panel.example.org\"".to_owned(),
            ));
        }
        let base = &self.base_path;
        let plain = |it: char| it.is_ascii_alphanumeric() || "-_./~".contains(it);
        if !base.is_empty()
            && (!base.starts_with('/')
                || base.ends_with('/')
                || base.contains("//")
                || !base.chars().all(plain))
        {
            return Err(("panel.base_path", "must be empty, or a path as \"/panel\"".to_owned()));
        }
        self.proxies().map(drop).map_err(|text| ("panel.trusted_proxies", text))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Language {
    #[default]
    #[serde(rename = "auto")]
    Auto,
    #[serde(rename = "en")]
    English,
    #[serde(rename = "zh-CN", alias = "zh")]
    Chinese,
}
