//! Databases of 3x-ui and S-UI as their programs make them, and such as mean harm.

use boxmeter_web::api::terms::PeriodKind;
use serde_json::{Value, json};

use super::{tests::file, *};
use crate::import::{ImportedCredentials, Panel};

const GIB: i64 = 1 << 30;
const DAY_MS: i64 = 86_400_000;
const UUID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";

/// Tables and columns of 3x-ui 2.x; those of others come with `ALTER TABLE`.
const THREEXUI: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, username TEXT, password TEXT);
    INSERT INTO users VALUES (1, 'panel-admin', 'panel-secret');
    CREATE TABLE inbounds (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER, up INTEGER, down INTEGER,
        total INTEGER, remark TEXT, enable NUMERIC, expiry_time INTEGER, listen TEXT, port INTEGER, protocol TEXT,
        settings TEXT, stream_settings TEXT, tag TEXT UNIQUE, sniffing TEXT);
    CREATE TABLE client_traffics (id INTEGER PRIMARY KEY AUTOINCREMENT, inbound_id INTEGER, enable NUMERIC,
        email TEXT UNIQUE, up INTEGER, down INTEGER, expiry_time INTEGER, total INTEGER, reset INTEGER DEFAULT 0);
    CREATE TABLE settings (id INTEGER PRIMARY KEY, key TEXT, value TEXT);";

const SUI: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, password TEXT, last_logins TEXT);
    INSERT INTO users VALUES (1, 'panel-admin', 'panel-secret', '');
    CREATE TABLE tls (id INTEGER PRIMARY KEY, name TEXT, server BLOB, client BLOB);
    CREATE TABLE inbounds (id INTEGER PRIMARY KEY, type TEXT, tag TEXT UNIQUE, tls_id INTEGER, addrs BLOB,
        out_json BLOB, options BLOB);
    CREATE TABLE clients (id INTEGER PRIMARY KEY, enable NUMERIC, name TEXT, config BLOB, inbounds BLOB, links BLOB,
        volume INTEGER, expiry INTEGER, down INTEGER, up INTEGER, \"desc\" TEXT, \"group\" TEXT);";

fn text(value: &Value) -> String {
    format!("'{}'", value.to_string().replace('\'', "''"))
}

/// Bytes, as the panel writes JSON.
fn blob(value: &Value) -> String {
    format!("CAST({} AS BLOB)", text(value))
}

fn inbound(id: u32, (protocol, tag, port): (&str, &str, u16), settings: &str, stream: &Value) -> String {
    format!(
        "INSERT INTO inbounds (id, enable, listen, port, protocol, settings, stream_settings, tag, total, expiry_time)
         VALUES ({id}, 1, '', {port}, '{protocol}', {settings}, {}, '{tag}', 0, 0);",
        text(stream)
    )
}

fn traffic(email: &str, up: i64, down: i64) -> String {
    format!(
        "INSERT INTO client_traffics (inbound_id, enable, email, up, down, expiry_time, total)
         VALUES (1, 1, '{email}', {up}, {down}, 0, 0);"
    )
}

fn imported(sql: &str) -> Imported {
    let (_directory, path) = file(sql);
    let before = fs::read(&path).unwrap();
    let imported = read_sqlite(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before, "the file was changed");
    assert!(imported.users.iter().all(|user| user.name != "panel-admin"), "who runs a panel is no client");
    imported
}

fn user<'i>(imported: &'i Imported, name: &str) -> &'i ImportedUser {
    imported.users.iter().find(|user| user.name == name).unwrap_or_else(|| panic!("{name}: {imported:?}"))
}

fn told(imported: &Imported, words: &str) {
    let lines = &imported.not_understood;
    assert!(lines.iter().any(|line| line.contains(words)), "{words}: {lines:#?}");
}

fn now_ms() -> i64 {
    crate::clock::wall_ms()
}

/// A newer panel gives one client a word for every kind of inbound at once.
#[test]
fn each_inbound_of_3x_ui_takes_its_own_word() {
    let clients = json!({"clients": [{"email": "alice", "id": UUID, "password": "pw", "auth": "word"}]});
    let older = json!({"clients": [{"email": "bob", "password": "of-old"}]});
    let stream = json!({"network": "tcp"});
    let sql = [
        THREEXUI.to_owned(),
        inbound(1, ("trojan", "tr", 8443), &text(&clients), &stream),
        inbound(2, ("hysteria2", "hy", 8444), &text(&clients), &stream),
        inbound(3, ("hysteria2", "hy-old", 8445), &text(&older), &stream),
    ];
    let imported = imported(&sql.concat());
    let word = |name: &str, tag: &str| user(&imported, name).logins[tag].password.clone();
    assert_eq!(word("alice", "tr").as_deref(), Some("pw"));
    assert_eq!(word("alice", "hy").as_deref(), Some("word"));
    assert_eq!(word("bob", "hy-old").as_deref(), Some("of-old"));
}

#[test]
fn clients_of_3x_ui_come_over() {
    let (soon, past) = (now_ms() + 10 * DAY_MS, now_ms() - DAY_MS);
    let vless = json!({"decryption": "none", "clients": [
        {"email": "alice", "id": UUID, "flow": "xtls-rprx-vision", "totalGB": 50 * GIB, "expiryTime": soon,
         "enable": true, "limitIp": 2, "reset": 0, "comment": "paid"},
        {"email": "renewed", "id": "b831381d-6324-4d53-ad4f-8cda48b30812", "totalGB": 10 * GIB, "expiryTime": soon,
         "enable": true, "limitIp": 0, "reset": 30, "tgId": "", "subId": "x"},
        {"email": "waits", "id": "b831381d-6324-4d53-ad4f-8cda48b30813", "totalGB": 0, "expiryTime": -30 * DAY_MS + 1,
         "enable": true},
        {"email": "over", "id": "b831381d-6324-4d53-ad4f-8cda48b30814", "totalGB": GIB, "expiryTime": 0,
         "enable": false},
        {"email": "late", "id": "b831381d-6324-4d53-ad4f-8cda48b30815", "totalGB": "0", "expiryTime": past,
         "enable": false},
        {"email": "off", "id": "b831381d-6324-4d53-ad4f-8cda48b30816", "totalGB": "", "expiryTime": "",
         "enable": false},
    ]});
    let trojan = json!({"clients": [
        {"email": "alice", "password": "pw-alice", "totalGB": 50 * GIB, "expiryTime": soon, "enable": true},
        {"email": "tom", "password": "pw-tom", "totalGB": 5, "enable": true},
    ]});
    let stream = json!({"network": "tcp", "security": "reality", "realitySettings": {"dest": "a.example:443",
        "serverNames": ["a.example"], "privateKey": "k", "shortIds": ["ab"]}});
    let sql = [
        THREEXUI.to_owned(),
        inbound(1, ("vless", "inbound-443", 443), &text(&vless), &stream),
        inbound(2, ("trojan", "tr", 8443), &text(&trojan), &json!({"network": "tcp"})),
        traffic("alice", 3, 4),
        traffic("renewed", 5, 6),
        traffic("over", 0, GIB),
        traffic("ghost", 1, 1),
    ];
    let imported = imported(&sql.concat());
    assert_eq!(imported.panel, Some(Panel::ThreeXui));
    let names: Vec<&str> = imported.users.iter().map(|user| &*user.name).collect();
    assert_eq!(names, ["alice", "renewed", "waits", "over", "late", "off", "tom"]);
    let alice = user(&imported, "alice");
    let login = |password: Option<&str>, uuid: Option<&str>, flow: Option<&str>| ImportedCredentials {
        password: password.map(str::to_owned),
        uuid: uuid.map(str::to_owned),
        flow: flow.map(str::to_owned),
    };
    assert_eq!(alice.inbounds, ["inbound-443", "tr"]);
    assert_eq!(alice.logins["inbound-443"], login(None, Some(UUID), Some("xtls-rprx-vision")));
    assert_eq!(alice.logins["tr"], login(Some("pw-alice"), None, None));
    assert_eq!(alice.credentials, login(Some("pw-alice"), Some(UUID), None));
    let bytes = 50 * GIB as u64;
    // What is never set back is a quota of all time.
    assert_eq!((alice.quota_bytes, alice.total_quota_bytes), (Some(None), Some(Some(bytes))));
    assert_eq!((alice.expires_ms, alice.max_addresses), (Some(soon), Some(Some(2))));
    assert_eq!((alice.note.as_deref(), alice.email.as_deref()), (Some("paid"), None));
    assert_eq!(alice.used, [ImportedUsage { when: UsedIn::Now, upload_bytes: 3, download_bytes: 4 }]);
    let renewed = user(&imported, "renewed");
    assert_eq!((renewed.quota_bytes, renewed.total_quota_bytes), (Some(Some(10 * GIB as u64)), Some(None)));
    assert_eq!(
        (renewed.period, renewed.expires_ms),
        (Some(PeriodKind::Days(30)), None),
        "its date is a renewal"
    );
    let from = renewed.created_ms.unwrap();
    assert_eq!((soon - from) % (30 * DAY_MS), 0, "its periods end when the panel would renew");
    assert!(from < now_ms() - 30 * DAY_MS, "before the one that runs");
    assert_eq!((user(&imported, "waits").valid_days, user(&imported, "waits").expires_ms), (Some(30), None));
    let statuses = ["over", "late", "off"].map(|name| user(&imported, name).status);
    assert_eq!(statuses, [ImportedStatus::OverQuota, ImportedStatus::Expired, ImportedStatus::Disabled]);
    assert_eq!(user(&imported, "off").total_quota_bytes, Some(None));
    told(&imported, "\"over\": switched off, and its quota is used up");
    told(&imported, "traffic of 1 clients who are on no inbound");
    assert_eq!(imported.not_understood.len(), 2, "{:?}", imported.not_understood);
    let [reality, plain] = &imported.inbounds[..] else { panic!("{:?}", imported.inbounds) };
    assert_eq!((&*reality.kind, reality.port), ("vless", Some(443)));
    assert_eq!(reality.snippet.as_ref().unwrap()["tls"]["reality"]["private_key"], json!("k"));
    assert_eq!(plain.snippet.as_ref().unwrap()["users"][0]["name"], json!("boxmeter-locked"));
}

#[test]
fn periods_of_newer_3x_ui_come_over() {
    let soon = now_ms() + DAY_MS;
    let client = |name: &str, more: Value| {
        let mut client = json!({"email": name, "password": name, "totalGB": 7, "enable": true});
        client.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client
    };
    let clients = json!({"clients": [
        client("day15", json!({"expiryTime": soon, "resetDay": 15, "reset": 30})),
        client("sundays", json!({"expiryTime": soon, "resetWeekday": 7})),
        client("thrice", json!({"expiryTime": soon, "reset": 10, "resetMax": 3})),
        client("first", json!({"expiryTime": -5 * DAY_MS, "reset": 5})),
        client("monthly", json!({"expiryTime": 0, "reset": 30})),
        client("long", json!({"expiryTime": soon, "reset": 100_000})),
    ]});
    let sql = [
        THREEXUI.to_owned(),
        "ALTER TABLE inbounds ADD COLUMN traffic_reset TEXT DEFAULT 'never';".to_owned(),
        inbound(1, ("trojan", "t", 1), &text(&clients), &json!({})),
        "UPDATE inbounds SET traffic_reset = 'monthly';".to_owned(),
        // As 3.0 and newer have clients once more.
        "CREATE TABLE clients (id INTEGER, email TEXT, uuid TEXT, password TEXT, total_gb INTEGER, enable NUMERIC,
             expiry_time INTEGER, reset_day INTEGER);
         CREATE TABLE client_inbounds (client_id INTEGER, inbound_id INTEGER);
         INSERT INTO clients VALUES (1, 'day15', '', 'other', 5, 1, 0, 0), (2, 'tabled', '', 'own', 9, 1, 0, 0),
             (3, 'nowhere', '', 'own', 9, 1, 0, 0);
         INSERT INTO client_inbounds VALUES (1, 1), (2, 1), (7, 1), (3, 9), (NULL, NULL);"
            .to_owned(),
    ];
    let imported = imported(&sql.concat());
    let of = |name: &str| {
        let user = user(&imported, name);
        (user.period, user.reset_day, user.expires_ms, user.valid_days)
    };
    assert_eq!(of("day15"), (Some(PeriodKind::Month), Some(15), None, None));
    assert_eq!(of("sundays"), (Some(PeriodKind::Week), Some(7), None, None));
    assert_eq!(of("thrice"), (Some(PeriodKind::Days(10)), None, Some(soon), None));
    assert_eq!(of("first"), (Some(PeriodKind::Days(5)), None, None, None));
    assert_eq!(of("monthly"), (Some(PeriodKind::Month), Some(1), None, None), "by its inbound");
    assert_eq!(of("long"), (Some(PeriodKind::Month), Some(1), Some(soon), None), "no period is so long");
    assert_eq!(
        user(&imported, "day15").logins["t"].password.as_deref(),
        Some("day15"),
        "as its inbound has it"
    );
    assert_eq!(user(&imported, "tabled").quota_bytes, Some(Some(9)));
    assert!(imported.users.iter().all(|user| user.name != "nowhere"));
    told(&imported, "\"thrice\": it was to be renewed a limited number of times");
    told(&imported, "\"first\": its periods of 5 days");
}

/// A database with much that is wrong.
fn odd_3x_ui() -> Imported {
    let good = json!({"clients": [
        {"email": "good", "password": "p", "totalGB": i64::MAX, "limitIp": -3, "enable": true},
        {"email": "good", "password": "q"},
        {"email": "minus", "password": "p2", "totalGB": -1},
        {"email": "odd", "password": "p3", "totalGB": {"x": 1}},
        {"email": "half", "password": "p4", "totalGB": 1.5},
        {"email": "  ", "password": "p5"},
        {"password": "p6"},
        {"email": "none"},
        {"email": "ev\u{1b}[31mil\nname", "password": "p7"},
        {"email": null},
        "no object",
        {"email": "float", "password": "p8", "totalGB": 5.0e9},
        {"email": "negative", "password": "p9"},
    ]});
    let sql = [
        THREEXUI.to_owned(),
        "ALTER TABLE inbounds ADD COLUMN node_id INTEGER;".to_owned(),
        inbound(1, ("trojan", "good", 1), &text(&good), &json!({})),
        inbound(2, ("vless", "broken", 2), "'{\"clients\": [{\"email\": \"x\"'", &json!({})),
        inbound(3, ("vless", "null", 3), "NULL", &json!({})),
        inbound(4, ("vless", "list", 4), "'{\"clients\": 5}'", &json!({})),
        inbound(
            5,
            ("vless", "ids", 5),
            &text(&json!({"clients": [{"email": "short", "id": "topsecret"}]})),
            &json!({}),
        ),
        inbound(
            6,
            ("mixed", "mixed", 6),
            &text(&json!({"accounts": [{"user": "u", "pass": "p"}]})),
            &json!({}),
        ),
        inbound(7, ("wireguard", "wg", 7), &text(&json!({"clients": [{"email": "good"}]})), &json!({})),
        inbound(
            8,
            ("trojan", "far", 8),
            &text(&json!({"clients": [{"email": "far", "password": "p"}]})),
            &json!({}),
        ),
        inbound(
            9,
            ("vmess", "x", 70),
            &text(&json!({"clients": [{"email": "kcp", "id": UUID}]})),
            &json!({"network": "kcp"}),
        ),
        "UPDATE inbounds SET node_id = 3 WHERE id = 8; UPDATE inbounds SET port = 70000 WHERE id = 1;"
            .to_owned(),
        traffic("negative", -5, 5),
        traffic("minus", i64::MAX, i64::MAX),
        "INSERT INTO client_traffics (email) VALUES (NULL);".to_owned(),
    ];
    imported(&sql.concat())
}

#[test]
fn what_is_wrong_in_3x_ui_holds_up_nobody_else() {
    let imported = odd_3x_ui();
    let names: Vec<&str> = imported.users.iter().map(|user| &*user.name).collect();
    assert_eq!(names, ["good", "minus", "ev\u{1b}[31mil\nname", "float", "negative", "far", "kcp"]);
    assert_eq!(user(&imported, "good").total_quota_bytes, Some(None));
    assert_eq!(user(&imported, "good").max_addresses, Some(None));
    assert_eq!(user(&imported, "good").inbounds, ["good", "wg"]);
    assert_eq!(user(&imported, "good").logins["good"].password.as_deref(), Some("p"), "the first one");
    assert_eq!(user(&imported, "float").total_quota_bytes, Some(Some(5_000_000_000)));
    assert!(imported.users.iter().all(|user| user.used.is_empty()), "{imported:?}");
    for words in [
        "\"good\": the limit totalGB of 9223372036854775807 bytes was taken as no limit",
        "\"good\": the client is twice on the inbound \"good\"",
        "\"minus\": the limit totalGB of -1 bytes",
        "\"minus\": the traffic that the file has cannot be true",
        "\"negative\": the traffic that the file has cannot be true",
        "\"odd\": totalGB is no whole number; the client was left out",
        "\"half\": totalGB is no whole number",
        "inbound \"good\": a client without an e-mail was left out",
        "inbound \"good\": a client that is no object was left out",
        "\"none\": the client has no password on the inbound \"good\"",
        "inbound \"good\": it has no port",
        "inbound \"broken\": its settings are no JSON object",
        "inbound \"null\": its settings are no JSON object",
        "inbound \"list\": its clients are no list",
        "\"short\": the client has an identifier that is no UUID on the inbound \"ids\"",
        "inbound \"mixed\": 1 logins that the panel does not count",
        "inbound \"x\": sing-box has no transport \"kcp\"",
    ] {
        told(&imported, words);
    }
    let all = imported.not_understood.join("\n");
    assert!(!all.contains('\u{1b}') && !all.contains("topsecret"), "{all}");
    let why = |tag: &str| {
        let inbound = imported.inbounds.iter().find(|inbound| inbound.tag == tag).unwrap();
        inbound.why_not.as_deref().unwrap_or("taken over")
    };
    assert_eq!(why("wg"), "sing-box has no such inbound with users");
    assert_eq!(why("far"), "it is on another machine of the panel");
    assert_eq!(why("x"), "taken over");
}

fn sui_client(name: &str, inbounds: &str, volume: i64, (up, down): (i64, i64)) -> String {
    let config = json!({
        "trojan": {"name": name, "password": format!("pw-{name}")},
        "shadowsocks": {"name": name, "password": "32"}, "shadowsocks16": {"name": name, "password": "16"},
        "vless": {"name": name, "uuid": UUID, "flow": "xtls-rprx-vision"},
        "tuic": {"name": name, "uuid": UUID, "password": "pw-tuic"},
        "mixed": {"username": "other", "password": "pw-mixed"},
    });
    format!(
        "INSERT INTO clients (enable, name, config, inbounds, volume, expiry, up, down, \"desc\")
         VALUES (1, '{name}', {}, CAST('{inbounds}' AS BLOB), {volume}, 0, {up}, {down}, 'n');",
        blob(&config)
    )
}

fn sui_inbound(id: u32, kind: &str, tls_id: u32, options: &Value) -> String {
    format!(
        "INSERT INTO inbounds (id, type, tag, tls_id, options) VALUES ({id}, '{kind}', '{kind}-{id}', {tls_id}, {});",
        blob(options)
    )
}

#[test]
fn clients_of_s_ui_come_over() {
    let now_s = now_ms() / 1000;
    let options = |port: u16| json!({"listen": "::", "listen_port": port});
    let ss =
        json!({"listen": "::", "listen_port": 4, "method": "2022-blake3-aes-128-gcm", "password": "server"});
    let sql = [
        SUI.to_owned(),
        "ALTER TABLE clients ADD COLUMN delay_start NUMERIC DEFAULT 0;
         ALTER TABLE clients ADD COLUMN auto_reset NUMERIC DEFAULT 0;
         ALTER TABLE clients ADD COLUMN reset_days INTEGER DEFAULT 0;
         ALTER TABLE clients ADD COLUMN next_reset INTEGER DEFAULT 0;
         ALTER TABLE clients ADD COLUMN total_up INTEGER DEFAULT 0;
         ALTER TABLE clients ADD COLUMN total_down INTEGER DEFAULT 0;"
            .to_owned(),
        format!("INSERT INTO tls VALUES (1, 'x', {}, NULL);", blob(&json!({"enabled": true, "key_path": "/k"}))),
        sui_inbound(1, "trojan", 1, &options(443)),
        sui_inbound(2, "vless", 0, &options(2)),
        sui_inbound(3, "tuic", 1, &options(3)),
        sui_inbound(4, "shadowsocks", 0, &ss),
        sui_inbound(5, "mixed", 0, &options(5)),
        sui_inbound(6, "direct", 0, &options(6)),
        sui_inbound(7, "vmess", 0, &options(7)),
        sui_client("alice", "[1, 2, 3, 4, 5]", 50 * GIB, (1, 2)),
        sui_client("reset", "[1]", 9, (3, 4)),
        sui_client("delay", "[1, 1]", 0, (0, 0)),
        sui_client("over", "[1]", 5, (5, 1)),
        format!(
            "UPDATE clients SET auto_reset = 1, reset_days = 30, next_reset = {}, total_up = 100 WHERE name = 'reset';
             UPDATE clients SET delay_start = 1, reset_days = 7 WHERE name = 'delay';
             UPDATE clients SET enable = 0 WHERE name = 'over';
             UPDATE clients SET expiry = {} WHERE name = 'alice';",
            now_s + 86_400,
            now_s + 86_400
        ),
    ];
    let imported = imported(&sql.concat());
    assert_eq!(imported.panel, Some(Panel::Sui));
    let alice = user(&imported, "alice");
    assert_eq!(alice.inbounds, ["trojan-1", "vless-2", "tuic-3", "shadowsocks-4", "mixed-5"]);
    let login = |tag: &str| (alice.logins[tag].password.as_deref(), alice.logins[tag].uuid.as_deref());
    assert_eq!(login("trojan-1"), (Some("pw-alice"), None));
    assert_eq!(login("vless-2"), (None, Some(UUID)));
    assert_eq!(alice.logins["vless-2"].flow.as_deref(), Some("xtls-rprx-vision"));
    assert_eq!(login("tuic-3"), (Some("pw-tuic"), Some(UUID)));
    assert_eq!(login("shadowsocks-4"), (Some("16"), None), "the key of the method's length");
    assert_eq!(
        (alice.total_quota_bytes, alice.expires_ms),
        (Some(Some(50 * GIB as u64)), Some((now_s + 86_400) * 1000))
    );
    told(&imported, "\"alice\": on the inbound \"mixed-5\" the client logs in as \"other\"");
    let reset = user(&imported, "reset");
    assert_eq!((reset.period, reset.quota_bytes), (Some(PeriodKind::Days(30)), Some(Some(9))));
    let earlier = ImportedUsage { when: UsedIn::Earlier, upload_bytes: 100, download_bytes: 0 };
    assert_eq!(
        reset.used,
        [ImportedUsage { when: UsedIn::Now, upload_bytes: 3, download_bytes: 4 }, earlier]
    );
    assert_eq!(((now_s + 86_400) * 1000 - reset.created_ms.unwrap()) % (30 * DAY_MS), 0);
    let delay = user(&imported, "delay");
    assert_eq!((delay.valid_days, delay.expires_ms, delay.inbounds.len()), (Some(7), None, 1));
    assert_eq!(user(&imported, "over").status, ImportedStatus::OverQuota);
    let tags: Vec<&str> = imported.inbounds.iter().map(|inbound| &*inbound.tag).collect();
    assert_eq!(tags, ["trojan-1", "vless-2", "tuic-3", "shadowsocks-4", "mixed-5"], "those with clients");
    let trojan = imported.inbounds[0].snippet.as_ref().unwrap();
    assert_eq!(trojan["tls"], json!({"enabled": true, "key_path": "/k"}));
    assert_eq!(
        (&trojan["listen_port"], &trojan["users"][0]["name"]),
        (&json!(443), &json!("boxmeter-locked"))
    );
}

#[test]
fn what_is_wrong_in_s_ui_holds_up_nobody_else() {
    let sql = [
        SUI.to_owned(),
        sui_inbound(1, "trojan", 9, &json!({"listen_port": 1})),
        "INSERT INTO inbounds (id, type, tag, options) VALUES (2, 'trojan', 'broken', '{');".to_owned(),
        sui_client("good", "[1, 2, 99, \"x\"]", -1, (0, 0)),
        sui_client("good", "[1]", 0, (0, 0)),
        sui_client("nowhere", "[]", 0, (0, 0)),
        sui_client("nolist", "5", 0, (0, 0)),
        sui_client("huge", "[1]", i64::MAX, (i64::MIN, i64::MAX)),
        "INSERT INTO clients (name, config, inbounds) VALUES (NULL, NULL, NULL), ('noconfig', '[]', '[1]'),
             ('nulls', '{}', '[1]'), ('nopw', '{\"trojan\": {\"password\": 5}}', '[1]');"
            .to_owned(),
    ];
    let imported = imported(&sql.concat());
    let names: Vec<&str> = imported.users.iter().map(|user| &*user.name).collect();
    assert_eq!(names, ["good", "huge"]);
    assert_eq!(user(&imported, "good").inbounds, ["trojan-1", "broken"]);
    for words in [
        "inbound \"trojan-1\": its TLS settings cannot be read",
        "inbound \"broken\": its options are no JSON object",
        "\"good\": one of its inbounds is not in the file",
        "\"good\": the volume of -1 bytes",
        "\"good\": the name is there twice",
        "\"nowhere\": on no inbound; the client was left out",
        "\"nolist\": its inbounds are no list",
        "\"huge\": the volume of 9223372036854775807 bytes was taken as no limit",
        "\"huge\": the traffic that the file has cannot be true",
        "client 6 has no name",
        "\"noconfig\": its logins are no JSON object",
        "\"nulls\": the client has no password",
        "\"nopw\": the client has no password",
    ] {
        told(&imported, words);
    }
}

/// What a panel has not yet put into its file is in the one beside it.
#[test]
fn the_log_beside_a_database_is_read() {
    let (_directory, path) = file(THREEXUI);
    let panel = Connection::open(&path).unwrap();
    panel.pragma_update(None, "journal_mode", "WAL").unwrap();
    panel.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    let clients = json!({"clients": [{"email": "fresh", "password": "p"}]});
    panel.execute_batch(&inbound(1, ("trojan", "t", 1), &text(&clients), &json!({}))).unwrap();
    assert!(fs::metadata(open::beside(&path, "-wal")).unwrap().len() > 0);
    assert_eq!(read_sqlite(&path).unwrap().users[0].name, "fresh");
}

#[test]
fn other_panels_are_named() {
    let marzban = "CREATE TABLE users (id INTEGER, username TEXT, data_limit INTEGER);
        CREATE TABLE proxies (id INTEGER, user_id INTEGER, type TEXT, settings TEXT);
        INSERT INTO users VALUES (1, 'a', 5);";
    let (_directory, path) = file(marzban);
    assert!(matches!(read_sqlite(&path), Err(ImportError::Marzban(_))));
    let (_directory, path) =
        file("CREATE TABLE clients (id INTEGER, name TEXT, config TEXT, inbounds TEXT);");
    assert!(matches!(read_sqlite(&path), Err(ImportError::OldSui(_))));
    // A view in place of a table runs what the file wants: it is no table.
    let view = "CREATE VIEW inbounds AS SELECT 1 AS protocol, 2 AS settings;
        CREATE TABLE client_traffics (email TEXT);";
    let (_directory, path) = file(view);
    assert!(matches!(read_sqlite(&path), Err(ImportError::NoUsers(..))));
}

#[test]
fn credentials_and_keys_of_panels_are_never_shown() {
    let clients = json!({"clients": [{"email": "a", "password": "topsecret"}]});
    let sql = [THREEXUI.to_owned(), inbound(1, ("trojan", "t", 1), &text(&clients), &json!({}))];
    let imported = imported(&sql.concat());
    assert_eq!(imported.users[0].logins["t"].password.as_deref(), Some("topsecret"));
    assert!(!format!("{:?}", imported.users).contains("topsecret"));
    let request = crate::import::to_request(imported.users[0].clone(), &jiff::tz::TimeZone::UTC);
    assert_eq!(request.logins["t"].password.as_deref(), Some("topsecret"));
    assert!(!format!("{request:?} {:?}", request.logins).contains("topsecret"));
}
