//! What people see of services: made-up answers as texts.

use boxmeter_web::{
    api::{query::By, types::*},
    backend::Backend,
    demo::Demo,
    locale::Lang,
};
use jiff::Zoned;

use super::{audit, context::Context, status, usage};

const GIB: u64 = 1 << 30;

fn now() -> Zoned {
    "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap()
}

fn plain(lang: Lang) -> Context {
    Context::plain(lang, None)
}

fn service(kind: &str, pid: Option<u32>, version: Option<&str>, source: Option<SourceKind>) -> ServiceStatus {
    ServiceStatus {
        name: "one".to_owned(),
        kind: kind.to_owned(),
        pid,
        version: version.map(str::to_owned),
        config: Some("/etc/one.json".to_owned()),
        source: SourceStatus { kind: source, connected: true, ..SourceStatus::default() },
        reported: source.is_none(),
    }
}

fn away(it: ServiceStatus) -> ServiceStatus {
    ServiceStatus { source: SourceStatus { connected: false, ..it.source.clone() }, pid: None, ..it }
}

async fn said(lang: Lang, services: Vec<ServiceStatus>, singbox: bool) -> String {
    let mut status = Demo::new(now()).status().await.unwrap();
    status.services = services;
    if !singbox {
        status.singbox = SingboxStatus::default();
        status.source = SourceStatus { connected: true, ..SourceStatus::default() };
    }
    status::render(&plain(lang), &status, now().timestamp())
}

#[tokio::test]
async fn status_says_what_is_true_of_each_service() {
    let log = Some(SourceKind::LogFile);
    let v2ray = || service("v2ray", Some(3), Some("4.34.0"), log);
    let itself = || service("v2ray", Some(3), Some("4.34.0"), None);
    let lost = ServiceStatus {
        source: SourceStatus { kind: log, connected: false, ..SourceStatus::default() },
        ..v2ray()
    };
    let silent = ServiceStatus { pid: Some(3), version: Some("4.34.0".to_owned()), ..away(itself()) };
    for (it, text) in [
        (v2ray(), "one: v2ray 4.34.0, pid 3, log-file, connected (/etc/one.json)"),
        (
            lost,
            "one: v2ray 4.34.0, pid 3, log-file, not connected: new connections stay unattributed (/etc/one.json)",
        ),
        (away(v2ray()), "one: v2ray is not running (/etc/one.json)"),
        (itself(), "one: v2ray 4.34.0, pid 3, counts its users itself (/etc/one.json)"),
        (away(itself()), "one: v2ray is not running (/etc/one.json)"),
        (silent, "one: v2ray 4.34.0, pid 3, counts its users itself, but does not answer (/etc/one.json)"),
        (service("nginx", Some(4), None, None), "one: nginx, pid 4, counts its users itself (/etc/one.json)"),
        (service("nginx", None, None, None), "one: nginx, counts its users itself (/etc/one.json)"),
        (
            away(service("nginx", Some(4), None, None)),
            "one: nginx, counts its users itself, but does not answer (/etc/one.json)",
        ),
    ] {
        let all = said(Lang::En, vec![it.clone()], true).await;
        assert!(all.lines().any(|line| line.trim_end().ends_with(text)), "{it:?}: {all}");
    }
    let zh = said(Lang::ZhCn, vec![service("nginx", Some(4), None, None)], true).await;
    assert!(zh.contains("one：nginx，进程 4，自行统计用户流量（/etc/one.json）"), "{zh}");
}

#[tokio::test]
async fn status_misses_no_source_where_nobody_needs_owners() {
    let alone = said(Lang::En, vec![service("nginx", None, None, None)], false).await;
    insta::assert_snapshot!(alone, @r"
    boxmeter demo: all is well

      agent          demo, pid 1, since 2026-11-24 15:30
      other proxies  one: nginx, counts its users itself (/etc/one.json)
      kernel         attached, counting, 120 ns per packet in, 130 ns out
      ledger         /var/lib/boxmeter/ledger.db, committed 0s ago
      limits         1 cut, 1 taken out; edits 1, reloads 0; reload pending (users: 1), at a quiet moment, at the latest 2026-11-24 15:40

    Watched inbounds:
      trojan-in: trojan, tcp port 443, 4 users
    ");
    let both = vec![service("nginx", None, None, None), service("v2ray", Some(3), None, None)];
    let v2ray = ServiceStatus { reported: false, ..both[1].clone() };
    assert!(!said(Lang::En, both.clone(), false).await.contains("unattributed"));
    let both = said(Lang::En, vec![both[0].clone(), v2ray], false).await;
    assert!(both.contains("  source "), "the kernel has to be told whose connections are V2Ray's: {both}");
}

/// alice and bob, of whom nginx has told as well.
async fn reported_usage() -> Usage {
    let mut usage = Demo::new(now()).usage(Default::default()).await.unwrap();
    let tell = |row: &mut UsageRow, up, down| {
        row.reported_upload_bytes = up;
        row.reported_download_bytes = down;
    };
    tell(&mut usage.rows[0], Some(GIB), Some(7 * GIB));
    tell(&mut usage.rows[1], None, Some(GIB / 2));
    usage
}

#[tokio::test]
async fn usage_shows_sums_and_sorts_by_what_was_reported() {
    let mut usage = reported_usage().await;
    insta::assert_snapshot!(usage::render(&plain(Lang::En), &usage, None, false), @r"
    beginning – 2026-11-24 15:30 (+08), payload

    User            Upload  Download     Total      Wire  Reported
    demo-alice     256 MiB  2.00 GiB  2.25 GiB  2.32 GiB  8.00 GiB
    demo-carol    1.00 GiB  8.00 GiB  9.00 GiB  9.31 GiB
    演示-小明      768 MiB  6.00 GiB  6.75 GiB  6.98 GiB
    demo-bob       512 MiB  4.00 GiB  4.50 GiB  4.65 GiB   512 MiB
    unattributed   768 KiB  6.00 MiB  6.75 MiB  6.98 MiB
    total         2.50 GiB  20.0 GiB  22.5 GiB  23.2 GiB  8.50 GiB
    ");
    // Of one user by time, in the order of time.
    usage.rows.truncate(2);
    for row in &mut usage.rows {
        row.user = "alice".to_owned();
    }
    usage.rows.swap(0, 1);
    let one = usage::render(&plain(Lang::ZhCn), &usage, Some(By::Day), true);
    insta::assert_snapshot!(one, @r"
    开始 – 2026-11-24 15:30（+08），载荷

    用户   开始           上传      下载      总量      线路      上报
    alice  2026-11-23  512 MiB  4.00 GiB  4.50 GiB  4.65 GiB   512 MiB
    alice  2026-11-23  256 MiB  2.00 GiB  2.25 GiB  2.32 GiB  8.00 GiB
    总计               768 MiB  6.00 GiB  6.75 GiB  6.98 GiB  8.50 GiB
    ");
}

#[tokio::test]
async fn usage_has_no_column_of_nothing() {
    let mut usage = Demo::new(now()).usage(Default::default()).await.unwrap();
    usage.rows[0].reported_upload_bytes = Some(0);
    assert!(!usage::render(&plain(Lang::En), &usage, None, false).contains("Reported"));
}

#[tokio::test]
async fn the_audit_has_a_line_of_each_service_beside_the_kernels_figures() {
    let mut audit = Demo::new(now()).audit(Default::default()).await.unwrap();
    audit.services.push(Reconciled {
        service: "v2ray\x1b[2J".to_owned(),
        since: Time::from(&now()),
        traffic: Traffic {
            upload_payload_bytes: 1_234,
            download_payload_bytes: 56_789,
            upload_wire_bytes: 1,
            download_wire_bytes: 2,
        },
        reported_upload_bytes: 1_000,
        reported_download_bytes: 50_000,
    });
    let text = audit::render(&plain(Lang::En), &audit);
    let line = text.lines().find(|line| line.starts_with("v2ray")).unwrap();
    insta::assert_snapshot!(line, @r"v2ray\u{1b}[2J since 2026-11-24 15:30: the kernel counted payload ↑ 1,234  ↓ 56,789, itself it reports ↑ 1,000  ↓ 50,000");
    let zh = audit::render(&plain(Lang::ZhCn), &audit);
    assert!(zh.contains("内核统计载荷 ↑ 1,234  ↓ 56,789，服务自报 ↑ 1,000  ↓ 50,000"), "{zh}");
}
