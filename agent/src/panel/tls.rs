//! TLS from certificate files, read again when they change: a renewed certificate needs no restart.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::ServerConfig;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A certificate and its key, and where they came from.
#[derive(Clone)]
pub struct Tls {
    config: RustlsConfig,
    files: Arc<Files>,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// When the two were written that are in use.
    loaded: Stamps,
}

type Stamps = [Option<(SystemTime, u64)>; 2];

/// Once, before anything of TLS.
pub fn install_provider() {
    // The only error is that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// `None` where no certificate is set.
///
/// # Errors
/// When a file cannot be read or does not fit the other.
pub async fn load(certificate: &str, key: &str) -> anyhow::Result<Option<Tls>> {
    if certificate.is_empty() {
        return Ok(None);
    }
    let (certificate, key) = (PathBuf::from(certificate), PathBuf::from(key));
    let loaded = stamps(&certificate, &key);
    let config = read(&certificate, &key).await.with_context(|| {
        format!(
            "the certificate {} with the key {} ([panel] tls_cert, tls_key)",
            certificate.display(),
            key.display()
        )
    })?;
    let config = RustlsConfig::from_config(config);
    Ok(Some(Tls { config, files: Arc::new(Files { certificate, key, loaded }) }))
}

/// Offers HTTP/1 and nothing else, which is what the listeners speak.
async fn read(certificate: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let loaded = RustlsConfig::from_pem_file(certificate, key).await?.get_inner();
    let mut config = ServerConfig::clone(&loaded);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn stamps(certificate: &Path, key: &Path) -> Stamps {
    [certificate, key].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

impl Tls {
    pub fn acceptor(&self) -> RustlsAcceptor {
        RustlsAcceptor::new(self.config.clone())
    }

    /// Looks at the files for ever. A pair that does not fit yet, since only one of the files was
    /// replaced by now, is tried again at the next look.
    pub async fn reload_when_changed(self) {
        let (mut used, mut told) = (self.files.loaded, self.files.loaded);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (certificate, key) = (&self.files.certificate, &self.files.key);
            let now = stamps(certificate, key);
            if now == used {
                continue;
            }
            match read(certificate, key).await {
                Ok(config) => {
                    self.config.reload_from_config(config);
                    tracing::info!(certificate = %certificate.display(), "the certificate was read anew");
                    (used, told) = (now, now);
                }
                Err(error) if now != told => {
                    tracing::warn!(
                        %error, certificate = %certificate.display(), key = %key.display(),
                        "the changed certificate cannot be used, the one before stays: is it readable for the \
                         panel's user, and do the two belong together?"
                    );
                    told = now;
                }
                Err(_) => {}
            }
        }
    }
}
