//! How V2Ray and Xray are started: what of their arguments says what they read. Pure.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Words and options with which the program does something else than serve.
const OTHER_WORK: [&str; 14] = [
    "api",
    "cert",
    "convert",
    "engineering",
    "help",
    "love",
    "mldsa65",
    "test",
    "tls",
    "uuid",
    "verify",
    "version",
    "wg",
    "x25519",
];

/// Does a process with these arguments serve? V2Ray 4 does without a word, V2Ray 5 and Xray with `run`.
pub fn serves(args: &[OsString]) -> bool {
    let first = args.get(1).map(|arg| arg.to_string_lossy()).unwrap_or_default();
    let option =
        |wanted: &str| args.iter().any(|arg| arg.to_string_lossy().trim_start_matches('-') == wanted);
    let asks = ["-test", "--test", "-version", "--version", "-h", "-help", "--help", "-dump", "--dump"];
    let dashed = args.iter().any(|arg| asks.contains(&&*arg.to_string_lossy()));
    !dashed
        && !OTHER_WORK.contains(&&*first)
        && (first == "run" || first.is_empty() || first.starts_with('-') || option("run"))
}

/// What it reads: `-config` and `-confdir` (repeatable, files before directories), else `config.json` where
/// it was started, else beside its executable.
pub fn config_args(args: &[OsString], cwd: &Path, exe: &Path) -> (Vec<PathBuf>, Vec<OsString>) {
    let (mut files, mut folders, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 1;
    while at < args.len() {
        let arg = args[at].to_string_lossy().into_owned();
        at += 1;
        let Some(option) = arg.strip_prefix('-') else { continue };
        let option = option.strip_prefix('-').unwrap_or(option);
        let (name, inline) = match option.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (option, None),
        };
        let place = match name {
            "c" | "config" => &mut files,
            "d" | "confdir" => &mut folders,
            _ => continue,
        };
        let value = inline.unwrap_or_else(|| {
            at += 1;
            args.get(at - 1).cloned().unwrap_or_default()
        });
        place.push(cwd.join(&value));
        raw.extend([OsString::from(format!("-{name}")), value]);
    }
    files.append(&mut folders);
    if files.is_empty() {
        let here = cwd.join("config.json");
        let beside = exe.parent().unwrap_or(Path::new("/")).join("config.json");
        // What is read cannot be asked of the process; a file where it was started comes first.
        files.extend([here, beside]);
    }
    (files, raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn arguments_of_all_versions_are_read() {
        let read = |text: &str| config_args(&args(text), Path::new("/run/v"), Path::new("/usr/bin/v2ray")).0;
        let paths = |wanted: &[&str]| wanted.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(read("v2ray -config /etc/v2ray/config.json"), paths(&["/etc/v2ray/config.json"]));
        assert_eq!(read("v2ray --config=a.json -c b.json"), paths(&["/run/v/a.json", "/run/v/b.json"]));
        assert_eq!(read("xray run -confdir /etc/xray -c a.json"), paths(&["/run/v/a.json", "/etc/xray"]));
        assert_eq!(read("v2ray run"), paths(&["/run/v/config.json", "/usr/bin/config.json"]));
    }

    #[test]
    fn only_servers_are_taken_for_services() {
        for (text, wanted) in [
            ("v2ray", true),
            ("v2ray -config a.json", true),
            ("xray run -c a.json", true),
            ("v2ray -test -config a.json", false),
            ("xray run -test -c a.json", false),
            ("v2ray test -c a.json", false),
            ("v2ray -version", false),
            ("xray api statsquery", false),
        ] {
            assert_eq!(serves(&args(text)), wanted, "{text}");
        }
    }
}
