//! Credentials of test users in every form that sing-box's inbounds take. They never leave the machine.

use serde_json::{Value, json};

/// Users of every inbound, before the inbound's name is added.
pub const USERS: [&str; 2] = ["alice", "bob"];

/// The form of credentials that an inbound takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Password,
    /// vmess.
    Uuid,
    /// vless, with the flow that both sides use.
    Flow(&'static str),
    /// shadowsocks, with the method; 2022 methods take keys of 16 bytes.
    Key(&'static str),
    /// hysteria.
    Auth,
    /// tuic.
    UuidPassword,
    /// naive, http, socks, mixed.
    UserName,
}

/// One account of one inbound.
#[derive(Debug, Clone)]
pub struct Account {
    /// As sing-box reports it and boxmeter shows it.
    pub name: String,
    number: usize,
}

/// The accounts of a case: names tell inbounds apart, so that one agent can meter all of them at once.
pub fn accounts(case: &str, index: usize) -> Vec<Account> {
    let account = |(number, user): (usize, &&str)| Account {
        name: format!("{user}-{case}"),
        number: index * USERS.len() + number,
    };
    USERS.iter().enumerate().map(account).collect()
}

const SERVER_KEY: &str = "AgAAAAAAAAAAAAAAAAAAAA==";

impl Account {
    fn uuid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.number + 1)
    }

    fn password(&self) -> String {
        format!("password-{}", self.number)
    }

    /// 16 bytes, different for each number below 256, in base64.
    fn key(&self) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (high, low) = (self.number / 4 % 64, self.number % 4 * 16);
        format!("{}{}AAAAAAAAAAAAAAAAAAAA==", char::from(DIGITS[high]), char::from(DIGITS[low]))
    }

    /// The entry in the inbound's `users`.
    pub fn entry(&self, login: Login) -> Value {
        let name = &self.name;
        match login {
            Login::Password => json!({"name": name, "password": self.password()}),
            Login::Uuid => json!({"name": name, "uuid": self.uuid()}),
            Login::Flow(flow) => json!({"name": name, "uuid": self.uuid(), "flow": flow}),
            Login::Key(method) if method.starts_with("2022") => json!({"name": name, "password": self.key()}),
            Login::Key(_) => json!({"name": name, "password": self.password()}),
            Login::Auth => json!({"name": name, "auth_str": self.password()}),
            Login::UuidPassword => json!({"name": name, "uuid": self.uuid(), "password": self.password()}),
            Login::UserName => json!({"username": name, "password": self.password()}),
        }
    }

    /// What the client's outbound has of it.
    pub fn credentials(&self, login: Login) -> Value {
        match login {
            Login::Password => json!({"password": self.password()}),
            Login::Uuid => json!({"uuid": self.uuid(), "security": "auto"}),
            Login::Flow(flow) => json!({"uuid": self.uuid(), "flow": flow}),
            Login::Key(method) if method.starts_with("2022") => {
                json!({"method": method, "password": format!("{SERVER_KEY}:{}", self.key())})
            }
            Login::Key(method) => json!({"method": method, "password": self.password()}),
            Login::Auth => json!({"auth_str": self.password()}),
            Login::UuidPassword => json!({"uuid": self.uuid(), "password": self.password()}),
            Login::UserName => json!({"username": self.name, "password": self.password()}),
        }
    }
}

/// What the inbound itself has besides `users`.
pub fn inbound_extra(login: Login) -> Value {
    match login {
        Login::Key(method) if method.starts_with("2022") => json!({"method": method, "password": SERVER_KEY}),
        Login::Key(method) => json!({"method": method}),
        _ => json!({}),
    }
}

/// Copies the fields of `more` into `into`.
pub fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}
