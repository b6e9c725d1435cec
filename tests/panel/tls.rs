//! TLS by the panel itself.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use boxmeter_tests::{
    needs_machine,
    netns::Netns,
    singbox::{SERVER_NAME, Site, VERSIONS, certificate},
    wait,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::rig::{Answer, Ask, PANEL, Rig};

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

fn files(site: &Site) -> Files {
    Files { certificate: site.scratch.join("panel-cert.pem"), key: site.scratch.join("panel-key.pem") }
}

/// A new pair in the place of the old one; the certificate as a client trusts it.
fn renew(files: &Files) -> CertificateDer<'static> {
    let (key, certificate) = certificate(VERSIONS[2]);
    std::fs::write(&files.key, key).unwrap();
    std::fs::write(&files.certificate, &certificate).unwrap();
    CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()
}

fn connect() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(PANEL.parse::<SocketAddr>().unwrap())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// A handshake that trusts this certificate alone, and what is answered after it.
fn over_tls(netns: &Netns, trusted: &CertificateDer<'static>, ask: &Ask<'_>) -> Result<Answer, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).map_err(|error| error.to_string())?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), SERVER_NAME.try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(client, netns.run(connect).unwrap());
    stream.write_all(ask.text().as_bytes()).map_err(|error| error.to_string())?;
    Ok(Answer::read(stream))
}

#[test]
fn the_panel_speaks_tls_and_takes_a_renewed_certificate() {
    needs_machine!();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let rig = Rig::with(|site| {
        let files = files(site);
        renew(&files);
        format!(
            "tls_cert = {:?}\ntls_key = {:?}\npublic_url = \"https://{SERVER_NAME}:8790\"\n",
            files.certificate, files.key
        )
    });
    let files = files(&rig.site);
    let netns = &rig.site.inside;
    let first = CertificateDer::from_pem_slice(&std::fs::read(&files.certificate).unwrap()).unwrap();
    let host = format!("{SERVER_NAME}:8790");
    let page = over_tls(netns, &first, &rig.ask("GET", "/sign-in").host(&host)).unwrap();
    assert_eq!(page.status, 200, "{}", page.body);
    assert_eq!(page.header("strict-transport-security"), Some("max-age=31536000"));
    let form = format!("password={}", rig.password);
    let signed_in = over_tls(netns, &first, &rig.ask("POST", "/sign-in").host(&host).form(&form)).unwrap();
    let cookie = signed_in.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__host-boxmeter=") && cookie.contains("; secure"), "{cookie}");
    let session = signed_in.session().unwrap();
    let own = rig.ask("GET", "/users").host(&host).header("cookie", &format!("__Host-boxmeter={session}"));
    assert_eq!(over_tls(netns, &first, &own).unwrap().status, 200);
    let bare = rig.ask("GET", "/users").host(&host).cookie(&session);
    assert_eq!(
        over_tls(netns, &first, &bare).unwrap().status,
        303,
        "a cookie that anybody can set opens nothing"
    );
    // Plain text is not answered.
    let mut answer = Vec::new();
    let _ = rig.ask("GET", "/sign-in").host(&host).open().read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));

    // Half a renewal: a key that does not fit. The old pair stays, and it is said.
    let (other, _) = certificate(VERSIONS[2]);
    std::fs::write(&files.key, other).unwrap();
    wait("it is said", || {
        let log = rig.log();
        if log.contains("the changed certificate cannot be used") { Ok(()) } else { Err(log) }
    });
    assert_eq!(over_tls(netns, &first, &own).unwrap().status, 200);
    let renewed = renew(&files);
    wait("the new certificate is shown", || {
        over_tls(netns, &renewed, &own).map(|it| assert_eq!(it.status, 200))
    });
    over_tls(netns, &first, &own).expect_err("the old one is shown too");
}
