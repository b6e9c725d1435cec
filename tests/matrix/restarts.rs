//! What outlives what: the agent, sing-box's configuration file, and what was known before either changed.

use crate::metered;
use boxmeter_tests::agent::Agent;
use boxmeter_tests::cases::named;
use boxmeter_tests::singbox::{Dropped, Site, VERSIONS};
use boxmeter_tests::target::{head, send};
use boxmeter_tests::{needs_machine, wait};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use boxmeter_tests::questions::exact;

fn degraded(agent: &Agent, part: &str) -> Result<bool, String> {
    let status = agent.ask(&["status"])?;
    let parts = status["degraded"].as_array().cloned().unwrap_or_default();
    Ok(parts.iter().any(|found| found["part"] == json!(part)))
}

#[test]
fn when_a_user_was_last_seen_outlives_the_agent() {
    needs_machine!();
    let mut site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let mut agent = metered(&site);
    site.drive(1);
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
    let seen = |agent: &Agent| -> Result<Value, String> {
        Ok(agent.ask(&["users", "show", &site.users[0].name])?["user"]["last_seen_at"].clone())
    };
    assert!(seen(&agent).unwrap().is_string());
    agent.kill();
    agent.start();
    assert!(seen(&agent).unwrap().is_string(), "nobody has come since, but it was known before");
}

/// Who was counted on before is counted on, whatever has become of the file.
#[test]
fn an_agent_that_cannot_read_the_configuration_counts_on() {
    // A multiple of the period of what is sent.
    const BYTES: u64 = 251 * 1_200;
    needs_machine!();
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let mut agent = metered(&site);
    let user = &site.users[0];
    let mut stream = user.proxy.connect(site.target.tcp).unwrap();
    stream.write_all(&head(2 * BYTES, 1)).unwrap();
    send(&mut stream, BYTES).unwrap();
    let has = |agent: &Agent, bytes: u64| {
        let usage = agent.ask(&["usage"])?;
        let [upload, _] = Agent::payload(&usage, &user.name);
        if upload >= bytes { Ok(()) } else { Err(format!("{upload} of {bytes}: {usage}")) }
    };
    wait("the first half is the user's", || has(&agent, BYTES));
    agent.kill();
    let whole = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), "{\"inbounds\": [").unwrap();
    send(&mut stream, BYTES).unwrap();
    agent.spawn();
    wait("the agent says what is wrong", || {
        if degraded(&agent, "singbox_config")? { Ok(()) } else { Err("not degraded".into()) }
    });
    wait("the second half is the user's too", || has(&agent, 2 * BYTES));
    // Leaving takes what boxmeter added out of the file, and must be able to read it.
    std::fs::write(site.config(), whole).unwrap();
}

/// Nobody reads the file but at a start or a reload: until then sing-box lets in whom it does not name any more.
#[test]
fn a_user_taken_out_of_the_file_is_metered_until_sing_box_reads_it() {
    needs_machine!();
    for version in VERSIONS {
        let mut site = Site::new(version, &[named("trojan-tls")]);
        let agent = metered(&site);
        site.drive(1);
        let text = std::fs::read_to_string(site.config()).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["inbounds"][0]["users"].as_array_mut().unwrap().remove(0);
        std::fs::write(site.config(), config.to_string()).unwrap();
        wait("the agent has read the file", || {
            let users = agent.ask(&["users", "list"])?;
            let count = users["users"].as_array().map_or(0, Vec::len);
            if count == 1 { Ok(()) } else { Err(users.to_string()) }
        });
        site.drive(1);
        site.stop_client();
        exact(&site, &agent, &Dropped::new());
    }
}

const MANAGER_PORT: u16 = 20_998;

/// Moves the users of a site's first inbound from the file into a service of type `ssm-api`.
fn manage(site: &mut Site) -> Vec<Value> {
    let text = std::fs::read_to_string(site.config()).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let inbound = &mut config["inbounds"][0];
    let users = inbound.as_object_mut().unwrap().remove("users").unwrap();
    inbound["managed"] = json!(true);
    let service = json!({"type": "ssm-api", "listen": "127.0.0.1", "listen_port": MANAGER_PORT,
        "servers": {"/": inbound["tag"]}});
    let mut services = config["services"].as_array().cloned().unwrap_or_default();
    services.push(service);
    config["services"] = json!(services);
    std::fs::write(site.config(), config.to_string()).unwrap();
    site.server = None;
    site.start_server();
    users.as_array().unwrap().clone()
}

fn add_managed(site: &Site, user: &Value) {
    let body = json!({"username": user["name"], "uPSK": user["password"]}).to_string();
    let answer = site.inside.run(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, MANAGER_PORT)).unwrap();
        let head = "POST /server/v1/users HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                    Content-Type: application/json\r\nContent-Length:";
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

/// Managed users are in no file: they are read from the service, and known by it while the agent runs.
#[test]
fn users_of_a_managed_inbound_are_metered() {
    needs_machine!();
    for version in VERSIONS {
        let mut site = Site::new(version, &[named("ss2022")]);
        let users = manage(&mut site);
        add_managed(&site, &users[0]);
        let mut agent = metered(&site);
        let known = |agent: &Agent, wanted: usize| {
            wait("the agent knows the users", || {
                let said = agent.ask(&["users", "list"])?;
                let count = said["users"].as_array().map_or(0, Vec::len);
                if count == wanted { Ok(()) } else { Err(format!("{said}\n{}", agent.ask(&["status"])?)) }
            });
        };
        known(&agent, 1);
        add_managed(&site, &users[1]);
        known(&agent, 2);
        site.drive(1);
        agent.kill();
        agent.start();
        known(&agent, 2);
        site.drive(1);
        site.stop_client();
        exact(&site, &agent, &Dropped::new());
    }
}
