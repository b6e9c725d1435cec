//! Styles, scripts and icons, embedded. The address of each holds a part of its checksum, so that
//! browsers may keep it for ever; each is compressed once.

use std::{io::Write as _, sync::LazyLock};

use axum::{
    body::Bytes,
    extract::Path,
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};

/// Digits of the checksum in an address.
const TAG_BYTES: usize = 6;
/// What is never changed under its address.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

struct Source {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! sources {
    ($($name:literal, $path:literal, $kind:literal;)*) => {
        &[$(Source { name: $name, kind: $kind, bytes: include_bytes!(concat!("../../../static/", $path)) },)*]
    };
}

const SOURCES: &[Source] = sources! {
    "htmx.js", "vendor/htmx.min.js", "text/javascript; charset=utf-8";
    "uplot.js", "vendor/uPlot.iife.min.js", "text/javascript; charset=utf-8";
    "uplot.css", "vendor/uPlot.min.css", "text/css; charset=utf-8";
    "pico.css", "vendor/pico.min.css", "text/css; charset=utf-8";
    "boxmeter.js", "boxmeter.js", "text/javascript; charset=utf-8";
    "boxmeter.css", "boxmeter.css", "text/css; charset=utf-8";
    "icons.svg", "icons.svg", "image/svg+xml";
    "favicon.svg", "favicon.svg", "image/svg+xml";
};

/// One asset as it is served.
struct Asset {
    name: &'static str,
    kind: &'static str,
    /// `boxmeter.0123456789ab.css`
    address: String,
    plain: Bytes,
    gzip: Bytes,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| SOURCES.iter().map(asset).collect());

fn asset(source: &Source) -> Asset {
    let digest = Sha256::digest(source.bytes);
    let tag: String = digest.iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect();
    let (stem, ending) = source.name.rsplit_once('.').unwrap_or((source.name, "bin"));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory cannot fail; without the compressed form the plain one is served.
    let gzip = gzip.write_all(source.bytes).and_then(|()| gzip.finish()).unwrap_or_default();
    Asset {
        name: source.name,
        kind: source.kind,
        address: format!("{stem}.{tag}.{ending}"),
        plain: Bytes::from_static(source.bytes),
        gzip: Bytes::from(gzip),
    }
}

/// The address of an asset below `/static/`. A name that nobody has is a defect, which a test finds.
pub fn address(name: &str) -> &'static str {
    ASSETS.iter().find(|it| it.name == name).map_or("", |it| &it.address)
}

/// `GET /static/{address}`: without a session, because the sign-in page needs it.
pub async fn serve(Path(wanted): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|it| it.address == wanted) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let accepts = headers.get(header::ACCEPT_ENCODING).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let gzip = !asset.gzip.is_empty() && accepts.split(',').any(|it| it.trim().starts_with("gzip"));
    let body = if gzip { asset.gzip.clone() } else { asset.plain.clone() };
    let mut response = body.into_response();
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(asset.kind));
    out.insert(header::CACHE_CONTROL, http::HeaderValue::from_static(FOR_EVER));
    out.insert(header::VARY, http::HeaderValue::from_static("Accept-Encoding"));
    if gzip {
        out.insert(header::CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const MANIFEST: &str = include_str!("../../../static/vendor/manifest.json");

    fn folder() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("static/vendor")
    }

    #[test]
    fn what_is_vendored_is_what_the_manifest_says() {
        let manifest: Vec<Value> = serde_json::from_str(MANIFEST).unwrap();
        let mut listed = BTreeSet::from(["manifest.json".to_owned()]);
        for entry in &manifest {
            let text =
                |key: &str| entry[key].as_str().unwrap_or_else(|| panic!("{key} of {entry}")).to_owned();
            let bytes = std::fs::read(folder().join(text("file"))).unwrap();
            let digest: String = Sha256::digest(&bytes).iter().map(|it| format!("{it:02x}")).collect();
            assert_eq!(digest, text("sha256"), "{entry}");
            let license = std::fs::read_to_string(folder().join(text("license_file"))).unwrap();
            assert!(license.len() > 200, "{entry}");
            for key in ["package", "version", "from", "license"] {
                assert!(!text(key).is_empty(), "{key} of {entry}");
            }
            listed.extend([text("file"), text("license_file")]);
        }
        let there: BTreeSet<String> = std::fs::read_dir(folder())
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(there, listed);
    }

    #[test]
    fn our_own_script_stays_short() {
        let script = include_str!("../../../static/boxmeter.js");
        assert!(script.lines().count() <= 300, "{} lines", script.lines().count());
        for word in
            ["eval(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "new Function"]
        {
            assert!(!script.contains(word), "{word}");
        }
    }

    #[tokio::test]
    async fn an_asset_is_kept_for_ever_under_its_checksum() {
        let get = |address: &str, accepts: &'static str| {
            let headers = [(header::ACCEPT_ENCODING, accepts.parse().unwrap())].into_iter().collect();
            serve(Path(address.to_owned()), headers)
        };
        for asset in ASSETS.iter() {
            let response = get(&asset.address, "br, gzip").await;
            assert_eq!(response.headers()[header::CACHE_CONTROL], FOR_EVER);
            assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
            let plain = get(&asset.address, "identity").await;
            assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
        }
        assert_eq!(get("boxmeter.css", "").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(address("nothing.css"), "");
    }

    /// With a page of 50 users (see the tests of pages) a first visit stays below 150 KB.
    #[test]
    fn all_assets_together_are_small() {
        let sum: usize = ASSETS.iter().map(|it| it.gzip.len()).sum();
        assert!(sum < 80_000, "{sum} bytes");
    }
}
