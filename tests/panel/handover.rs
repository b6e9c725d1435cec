//! What is handed over to a user is what works: the code that the panel shows is scanned, fetched from outside
//! under the name that it says, and carries traffic in a real client.

use std::process::Command;

use boxmeter_tests::{needs_machine, singbox::SERVER, wait};
use serde_json::json;

use crate::{
    qr_reader,
    rig::{ALICE, Rig},
};

/// A name that this machine was given by its admin: no public address of the configuration says it.
const NAME: &str = "meter.example";

#[test]
fn the_code_with_the_servers_name_carries_traffic() {
    needs_machine!();
    let rig = Rig::with(|site| {
        site.scratch.instead("/etc/hosts", NAME, &format!("{} {NAME}", SERVER[0]));
        "public_listen = \"0.0.0.0:8444\"\n".to_owned()
    });
    let session = rig.sign_in();
    let settings = json!({"address": NAME, "inbounds": {"trojan-tls-in": {"insecure": true}}});
    let set = rig.ask("PATCH", "/api/v1/settings/sharing").session(&session).json(&settings).send();
    assert_eq!(set.status, 200, "{}", set.body);
    let page = rig.ask("GET", &format!("/users/{ALICE}/connect")).cookie(&session).send();
    let codes = qr_reader::read_all(&page.body);
    let url = &codes[0];
    assert!(url.starts_with(&format!("http://{NAME}:8444/s/")), "{codes:?}");
    let fetch = |client: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--max-time", "30", "-A", client, "-H", "Accept: text/html, */*", url]);
        let output = rig.site.outside.enter(&mut curl).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{url}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(
        fetch("Mozilla/5.0 (Linux; Android 15)").contains(url.as_str()),
        "the page tells its own address"
    );
    let subscription = fetch("sing-box 1.14.4");
    assert!(subscription.contains(&format!("\"server\": \"{NAME}\"")), "{subscription}");
    let file = rig.site.scratch.join("handed-over.json");
    std::fs::write(&file, subscription).unwrap();
    let target = rig.site.public_target();
    let (process, proxy) = rig.site.start_imported(&file);
    wait("the subscription carries traffic", || {
        proxy.exchange(target, 60_000, 180_000).map_err(|error| format!("{error}\n{}", process.log()))
    });
}
