//! The pages that list every key of the configuration: written from the packaged configuration and from the
//! Chinese texts beside the pages, and compared with what is there.
//!
//! `BOXMETER_WRITE_DOCS=1 cargo test -p boxmeter --lib reference` writes them anew.

use std::{fs, path::PathBuf};

use toml::{Table, Value};

use super::packaged::TEXT;

const ZH: &str = include_str!("../../../docs/configuration.zh-CN.toml");

const HEAD: &str = "# Configuration

[中文](configuration.zh-CN.md)

`/etc/boxmeter/config.toml`; `--config FILE` or `BOXMETER_CONFIG` names another one. Every key is optional, and an unknown \
key is an error, which `systemctl status boxmeter` shows. After a change: `systemctl restart boxmeter boxmeter-panel`. \
Durations are written `30s`, `10m`, `1d`; sizes `500M`, `10GiB`. Secrets are better in files of their own, see \
[Security](security.md#where-secrets-are).
";

const HEAD_ZH: &str = "# 配置

[English](configuration.md)

`/etc/boxmeter/config.toml`；`--config FILE` 或 `BOXMETER_CONFIG` 指定别的文件。每个键都可省略；未知的键是错误，\
`systemctl status boxmeter` 会显示。修改后执行 `systemctl restart boxmeter boxmeter-panel`。时长写作 `30s`、`10m`、`1d`；\
大小写作 `500M`、`10GiB`。机密最好放在单独的文件里，见[安全](security.zh-CN.md#机密放在哪里)。
";

struct Key {
    section: String,
    name: String,
    default: String,
    text: String,
}

/// Keys in their order, with the comment lines right before them.
fn keys() -> Vec<Key> {
    let (mut keys, mut section, mut comment) = (Vec::new(), String::new(), Vec::new());
    for line in TEXT.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            comment.clear();
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
        } else if let Some((name, default)) = line.strip_prefix('#').and_then(|line| line.split_once(" = ")) {
            let text = comment.join(" ");
            comment.clear();
            keys.push(Key {
                section: section.clone(),
                name: name.to_owned(),
                default: default.to_owned(),
                text,
            });
        } else {
            comment.clear();
        }
    }
    keys
}

fn inside<'t>(table: &'t Table, section: &str) -> Option<&'t Table> {
    section.split('.').try_fold(table, |table, name| table.get(name)?.as_table())
}

/// A table of each section. What the texts have is told in the order of the packaged configuration.
fn page(head: &str, columns: [&str; 2], text_of: impl Fn(&Key) -> String) -> String {
    let (mut page, mut section) = (head.to_owned(), String::new());
    for key in keys() {
        if key.section != section {
            section.clone_from(&key.section);
            let [name, default] = columns;
            page.push_str(&format!("\n## [{section}]\n\n| {name} | {default} | |\n|---|---|---|\n"));
        }
        let text = text_of(&key).replace('|', "\\|");
        page.push_str(&format!("| `{}` | `{}` | {text} |\n", key.name, key.default));
    }
    page
}

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

#[test]
fn the_pages_say_every_key() {
    let zh: Table = ZH.parse().unwrap();
    let chinese = |key: &Key| {
        let text =
            inside(&zh, &key.section).and_then(|section| section.get(&key.name)).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let keys = keys();
    for key in &keys {
        let name = format!("{}.{}", key.section, key.name);
        assert!(!key.text.is_empty(), "{name} has no comment in dist/config.toml");
        assert!(!chinese(key).is_empty(), "{name} has no text in docs/configuration.zh-CN.toml");
    }
    let mut known: Vec<String> = keys.iter().map(|key| format!("{}.{}", key.section, key.name)).collect();
    let mut written = Vec::new();
    super::packaged::keys(&zh, "", &mut written);
    known.sort();
    written.sort();
    assert_eq!(written, known, "keys of docs/configuration.zh-CN.toml, and those that there are");
    let pages = [
        ("configuration.md", page(HEAD, ["key", "default"], |key| key.text.clone())),
        ("configuration.zh-CN.md", page(HEAD_ZH, ["键", "默认值"], chinese)),
    ];
    for (name, page) in pages {
        if std::env::var_os("BOXMETER_WRITE_DOCS").is_some() {
            fs::write(docs(name), &page).unwrap();
        }
        let says = fs::read_to_string(docs(name)).unwrap_or_default();
        assert!(
            says == page,
            "docs/{name} is not what dist/config.toml says: BOXMETER_WRITE_DOCS=1 cargo test -p boxmeter --lib reference"
        );
    }
}
