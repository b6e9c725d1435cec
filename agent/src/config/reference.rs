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

/// Tables of which there may be several have no defaults in the packaged configuration.
const TAIL: &str = r#"
## [[service]]

Proxies beside sing-box and nginx, each with a table of its own. See [Several services](services.md).

| key | default | |
|---|---|---|
| `kind` |  | `v2ray`, `xray`, or `nginx` (with nginx-module-vts). |
| `name` | `""` | What it is called here; empty: its kind. At most 24 letters, digits, dots, dashes and underscores. |
| `config` | `[]` | Its files or directories, in the order in which they are given to it. nginx: the one of `nginx -c`; empty: as the running one was started. |
| `access_log` | `"auto"` | Who owns connections; auto: `log.access` of its configuration. Not for nginx. |
| `binary` | `"auto"` | For checks: auto is the running process's executable. |
| `restart` | `"auto"` | How V2Ray or Xray reads its changed users where it has no API: auto, "systemd:UNIT", "command:…" or never. Not for nginx. |
| `restart_within` | `"10m"` | How long a user who is out may wait for that restart. |
| `meter` | `"kernel"` | kernel, or reported: by its own StatsService. nginx always reports. |
| `every` | `"5s"` | How often totals that it reports are read; 1s to 10m. |
| `status` | `""` | nginx: where nginx-module-vts answers in JSON, as http://127.0.0.1:8080/status/format/json. |
| `refuse` | `""` | nginx: the file of users whom it refuses, which boxmeter makes; empty: it refuses nobody. |
| `pid_file` | `"auto"` | nginx: where several run; auto: the one that runs. |
| `users` | `[]` | nginx: whom it has as users; empty: whoever it counts. |
"#;

const TAIL_ZH: &str = r#"
## [[service]]

sing-box 之外的代理与 nginx，各有一个表。见[多个服务](services.zh-CN.md)。

| 键 | 默认值 | |
|---|---|---|
| `kind` |  | `v2ray`、`xray` 或 `nginx`（带 nginx-module-vts）。 |
| `name` | `""` | 在这里的名字；空：其种类。最多 24 个字母、数字、点、横线和下划线。 |
| `config` | `[]` | 其文件或目录，顺序与交给它的相同。nginx：`nginx -c` 的文件；空：与运行中的相同。 |
| `access_log` | `"auto"` | 连接属于谁；auto：其配置中的 `log.access`。不用于 nginx。 |
| `binary` | `"auto"` | 用于检查：auto 是运行中进程的程序。 |
| `restart` | `"auto"` | V2Ray 或 Xray 没有 API 时如何读取变更的用户：auto、"systemd:UNIT"、"command:…" 或 never。不用于 nginx。 |
| `restart_within` | `"10m"` | 出局的用户最多等待该重启多久。 |
| `meter` | `"kernel"` | kernel，或 reported：由其自身的 StatsService。nginx 总是自行报告。 |
| `every` | `"5s"` | 多久读取一次其报告的总量；1s 到 10m。 |
| `status` | `""` | nginx：nginx-module-vts 以 JSON 应答之处，如 http://127.0.0.1:8080/status/format/json。 |
| `refuse` | `""` | nginx：被其拒绝的用户的文件，由 boxmeter 创建；空：不拒绝任何人。 |
| `pid_file` | `"auto"` | nginx：有多个运行时；auto：运行中的那个。 |
| `users` | `[]` | nginx：它的用户；空：它计数的所有人。 |
"#;

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
        ("configuration.md", page(HEAD, ["key", "default"], |key| key.text.clone()) + TAIL),
        ("configuration.zh-CN.md", page(HEAD_ZH, ["键", "默认值"], chinese) + TAIL_ZH),
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

#[test]
fn the_tables_of_services_say_every_key() {
    let service = Value::try_from(super::Service::default()).unwrap();
    let known: Vec<&String> = service.as_table().unwrap().keys().filter(|key| *key != "kind").collect();
    for tail in [TAIL, TAIL_ZH] {
        let rows: Vec<&str> =
            tail.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        for key in &known {
            assert!(rows.contains(&key.as_str()), "{key} is not in {rows:?}");
        }
        assert_eq!(rows.len(), known.len() + 1, "{rows:?}");
        for key in &known {
            // As people write durations.
            let default =
                service[key.as_str()].to_string().replace("5000ms", "5s").replace("600000ms", "10m");
            assert!(tail.contains(&format!("| `{key}` | `{default}` |")), "{key} is {default}");
        }
    }
}
