//! What is taken and what is refused, and that no secret is ever told.

use std::{path::Path, time::Duration};

use super::*;
use crate::config::Config;

fn parse(text: &str) -> Result<Notify, String> {
    let parsed = Config::parse(text, Path::new("test.toml"));
    parsed.map(|config| config.notify).map_err(|error| error.to_string())
}

const ALL: &str = r#"
[notify]
kinds = ["quota", "trouble"]
percentages = [50, 100]
expiry_before = ["3d", "12h"]
trouble_after = "5m"
language = "zh-CN"
to_users = ["quota"]
[notify.mail]
server = "mail.example.org"
security = "tls"
user = "meter"
password = "hunter-two"
from = "boxmeter <boxmeter@example.org>"
to = ["admin@example.org"]
[notify.telegram]
token_file = "/etc/boxmeter/telegram"
chat_id = "-1001234"
[notify.webhook]
url = "https://example.org/hook?key=very-secret"
secret = "signs-everything"
[notify.reports]
daily = "08:00"
monthly = "09:30"
time_zone = "Asia/Shanghai"
by = ["mail", "telegram"]
"#;

#[test]
fn everything_is_read_and_no_secret_is_printed() {
    let notify = parse(ALL).unwrap();
    assert_eq!(notify.kinds, [Kind::Quota, Kind::Trouble]);
    assert_eq!(notify.expiry_before[1].0, Duration::from_secs(12 * 3600));
    assert_eq!((notify.mail.port(), notify.reports.daily.0.unwrap().hour()), (465, 8));
    let printed = format!("{notify:?}{}", toml::to_string(&notify).unwrap());
    for secret in ["hunter-two", "very-secret", "signs-everything"] {
        assert!(!printed.contains(secret), "{printed}");
    }
    assert!(notify.has_secrets());
    assert_eq!(notify.secret_files().collect::<Vec<_>>(), [Path::new("/etc/boxmeter/telegram")]);
}

#[test]
fn by_default_nothing_is_sent() {
    let notify = parse("").unwrap();
    assert!(!notify.wanted() && !notify.has_secrets());
    assert_eq!(notify.percentages, [80, 95, 100]);
}

#[test]
fn bad_values_say_what_to_write() {
    let mail = "[notify.mail]\nserver = \"m\"\nfrom = \"a@example.org\"\n";
    for (text, part) in [
        ("[notify]\npercentages = [0]".to_owned(), "1 to 1000"),
        ("[notify]\nexpiry_before = [\"soon\"]".to_owned(), "expected a duration"),
        ("[notify]\nkinds = [\"all\"]".to_owned(), "unknown variant `all`"),
        ("[notify]\npercentage = [1]".to_owned(), "did you mean `percentages`"),
        ("[notify]\nto_users = [\"quota\"]".to_owned(), "[notify.mail]"),
        ("[notify.mail]\nserer = \"x\"".to_owned(), "did you mean `server`"),
        ("[notify.mail]\nfrom = \"a@example.org\"".to_owned(), "name the mail server"),
        ("[notify.mail]\nserver = \"m:25\"".to_owned(), "goes into `port`"),
        ("[notify.mail]\nserver = \"m\"".to_owned(), "boxmeter@example.org"),
        (format!("{mail}to = [\"nobody\"]"), "admin@example.org"),
        (format!("{mail}user = \"x\""), "password_file"),
        (format!("{mail}password = \"x\""), "notify.mail.user"),
        (format!("{mail}user = \"x\"\npassword = \"x\"\npassword_file = \"/x\""), "leave one out"),
        (format!("{mail}user = \"x\"\npassword = \"x\"\nsecurity = \"none\""), "readable by everybody"),
        (format!("{mail}security = \"ssl\""), "starttls"),
        (format!("{mail}ca_file = \"x\""), "absolute path"),
        ("[notify.telegram]\ntoken = \"x\"".to_owned(), "chat_id"),
        ("[notify.telegram]\nchat_id = \"me\"\ntoken = \"x\"".to_owned(), "@channel"),
        ("[notify.telegram]\nchat_id = \"1\"".to_owned(), "token_file"),
        ("[notify.webhook]\nurl = \"http://example.org/\"".to_owned(), "https://"),
        ("[notify.webhook]\nurl = \"https://a:b@example.org/\"".to_owned(), "no name or password"),
        ("[notify.webhook]\nurl = \"https://example.org/\"".to_owned(), "secret_file"),
        ("[notify.webhook]\nsecret = \"x\"".to_owned(), "notify.webhook.url"),
        ("[notify.reports]\ndaily = \"8\"".to_owned(), "08:00"),
        ("[notify.reports]\ndaily = \"08:00\"".to_owned(), "[notify.mail]"),
        ("[notify.reports]\ntime_zone = \"Nowhere\"".to_owned(), "IANA name"),
        ("[notify.reports]\ntop = 1000".to_owned(), "at most 100"),
        ("[notify.report]\ndaily = \"never\"".to_owned(), "did you mean `reports`"),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(part), "{text:?}: {error}");
    }
}

/// Errors of TOML quote the line that they are about.
#[test]
fn no_error_quotes_a_secret() {
    for text in [
        "[notify.mail]\npassword = [\"hunter-two\"]",
        "[notify.telegram]\ntoken = { x = \"hunter-two\" }",
        "[notify.webhook]\nsecret = \"hunter-two\" oops",
        "[notify.webhook]\nurl = [\"https://example.org/hunter-two\"]",
        "notify.webhook = { secret = \"hunter-two\", nonsense = 1 }",
        "[notify.mail]\npassword = \"\"\"\nhunter-two\"\"\" oops",
        "[notify.webhook]\nurl = \"ftp://example.org/hunter-two\"",
    ] {
        let error = parse(text).unwrap_err();
        assert!(!error.contains("hunter"), "{text:?}: {error}");
    }
}

#[test]
fn what_may_go_without_tls_is_near() {
    for near in ["http://127.0.0.1:8080/x", "http://[::1]/", "http://localhost", "http://10.1.2.3/"] {
        assert!(!web(near).unwrap().tls, "{near}");
    }
    assert!(web("http://8.8.8.8/").is_err());
    let far = web("https://example.org/hook?a=b").unwrap();
    assert_eq!((far.place().as_str(), far.authority().as_str()), ("example.org:443", "example.org"));
    assert_eq!(
        (far.path.as_str(), web("https://[2001:db8::1]:8443").unwrap().place().as_str()),
        ("/hook?a=b", "[2001:db8::1]:8443")
    );
}
