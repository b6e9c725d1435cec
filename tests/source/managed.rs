//! Users of a managed shadowsocks inbound through the `ssm-api` service of real sing-box.

use std::collections::HashMap;

use boxmeter::{
    enforcer::{
        managed::{self, ManagedError, ManagedPlan, ManagedUser, Manager},
        reconcile::Want,
        users_edit::{Brought, Parked},
    },
    singbox::files,
};

use crate::{
    edit::carries,
    server::{Server, V12, V13, V14, echo, free_port, mixed, wait_for},
};

const METHOD: &str = "2022-blake3-aes-128-gcm";
const SERVER_KEY: &str = "AgAAAAAAAAAAAAAAAAAAAA==";

fn server_text(port: u16, api: u16) -> String {
    format!(
        r#"{{"inbounds": [{{"type": "shadowsocks", "tag": "Ss", "listen": "127.0.0.1", "listen_port": {port},
             "managed": true, "method": "{METHOD}", "password": "{SERVER_KEY}"}}],
            "services": [{{"type": "ssm-api", "listen": "127.0.0.1", "listen_port": {api}, "servers": {{"/Two": "Ss"}}}}]}}"#
    )
}

fn client(version: &str, port: u16, key: &str) -> (Server, u16) {
    let listen = free_port();
    let outbound = format!(
        r#", "outbounds": [{{"type": "shadowsocks", "server": "127.0.0.1", "server_port": {port}, "method": "{METHOD}", "password": "{SERVER_KEY}:{key}"}}]"#
    );
    (Server::start(version, listen, &[("a.json", &mixed(listen, &outbound))]), listen)
}

/// Plans and does; the ledger is a list.
async fn reach(manager: &Manager, parked: &mut Vec<Parked>, user: &str, want: Want) -> ManagedPlan {
    let wanted = HashMap::from([(user.to_owned(), want)]);
    let plan = managed::plan("Ss", METHOD, &manager.list().await.unwrap(), parked, &wanted);
    parked.extend(plan.park.iter().cloned());
    for name in &plan.remove {
        manager.remove(name).await.unwrap();
    }
    for user in &plan.add {
        manager.add(user).await.unwrap();
    }
    parked.retain(|record| !plan.unpark.contains(&record.key));
    let again = managed::plan("Ss", METHOD, &manager.list().await.unwrap(), parked, &wanted);
    assert!(again.is_empty(), "{again:?}");
    plan
}

async fn go(version: &str) {
    let (port, api, target) = (free_port(), free_port(), echo());
    let server = Server::start(version, api, &[("a.json", &server_text(port, api))]);
    let config = files::parse(&files::read(&server.config()).unwrap()).unwrap();
    let manager = Manager::of(&config.managers, "Ss", None).unwrap();
    assert!(matches!(Manager::of(&config.managers, "other", None), Err(ManagedError::Unserved(_))));
    assert_eq!(manager.list().await.unwrap(), []);
    let mut parked = Vec::new();
    let new = || Want::New { inbounds: Some(vec!["Ss".into()]), brought: Brought::default() };
    let name = "zoë @home";
    let made = reach(&manager, &mut parked, name, new()).await;
    let key = made.credentials[0].fields[1].1.clone();
    reach(&manager, &mut parked, "other", new()).await;
    let (_client, listen) = client(version, port, &key);
    carries(listen, "alice", target).unwrap_or_else(|error| panic!("{version}: {error}"));
    reach(&manager, &mut parked, name, Want::Out).await;
    carries(listen, "alice", target).expect_err("out, without a reload");
    reach(&manager, &mut parked, name, Want::In).await;
    wait_for("in again, with the same key", || carries(listen, "alice", target).ok());
    reach(&manager, &mut parked, name, Want::Deleted).await;
    carries(listen, "alice", target).expect_err("deleted");
    assert!(parked.is_empty());
    let left = manager.list().await.unwrap();
    assert_eq!(left.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["other"]);
    let twice = manager.add(&ManagedUser { name: "other".into(), key: SERVER_KEY.into() }).await.unwrap_err();
    assert!(twice.to_string().contains("already exists"), "{twice}");
    drop(server);
    assert!(matches!(manager.list().await, Err(ManagedError::Connect { .. })));
}

#[test]
fn managed_users_go_and_come_without_a_reload() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for version in [V12, V13, V14] {
        runtime.block_on(go(version));
    }
}
