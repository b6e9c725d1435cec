//! Several proxies: what each says of itself, and what a user moved on each.

use std::sync::Arc;

use super::{Rig, now};
use crate::{
    api::types::*,
    backend::Backend as _,
    demo::{Demo, user},
    locale::Lang,
    units::Size,
};

/// The words of a part of a page, from an element's id on.
fn part(page: &str, id: &str, end: &str) -> String {
    let from = page.split(&format!("id=\"{id}\"")).nth(1).unwrap_or_else(|| panic!("no {id} in {page}"));
    super::words(&format!("<{}", from.split(end).next().unwrap()))
}

#[tokio::test]
async fn a_user_of_three_services_sees_each_share() {
    let rig = Rig::new().await;
    let shares = rig.demo.user("carol").await.unwrap().user.services;
    let [singbox, v2ray, web] = &shares[..] else { panic!("{shares:?}") };
    let sizes = |(up, down): (u64, u64)| format!("{} {}", Size(down), Size(up));
    let told = (web.reported_upload_bytes.unwrap(), web.reported_download_bytes.unwrap());
    for (lang, head, itself) in [
        (Lang::En, "Services Service Download Upload", "reported"),
        (Lang::ZhCn, "服务 服务 下载 上传", "上报"),
    ] {
        let page = rig.get_in(lang, "/users/carol").await;
        let expected = format!(
            "{head} sing-box {} v2ray {} web {itself} {}",
            sizes(singbox.traffic.by(Meter::Payload)),
            sizes(v2ray.traffic.by(Meter::Payload)),
            sizes(told),
        );
        assert_eq!(part(&page.text, "services-title", "</table>"), expected);
    }
    assert!(!rig.get("/users/alice").await.has("services-title"), "there is only sing-box");
}

#[tokio::test]
async fn one_service_is_told_only_where_it_counts_itself() {
    let counted = Traffic { download_payload_bytes: 3 << 20, ..Traffic::default() };
    let share = |traffic, told| ServiceShare {
        service: "web<1>".to_owned(),
        traffic,
        reported_upload_bytes: None,
        reported_download_bytes: told,
    };
    let shows = async |services: Vec<ServiceShare>| {
        let someone = User { services, ..user(&now(), 1, "someone", UserState::Active, None) };
        let rig = Rig::over(Arc::new(Demo::new(now()).with_users(vec![someone])), "").await;
        let page = rig.get("/users/someone").await;
        let there = page.has("services-title");
        there.then(|| part(&page.text, "services-title", "</table>"))
    };
    assert_eq!(shows(vec![]).await, None);
    assert_eq!(shows(vec![share(counted, None)]).await, None);
    let told = shows(vec![share(Traffic::default(), Some(5 << 20))]).await.unwrap();
    assert!(told.ends_with("web&#60;1&#62; reported 5.00 MiB 0 B"), "{told}");
    // Before it counted itself, the kernel did.
    let both = shows(vec![share(counted, Some(5 << 20))]).await.unwrap();
    assert!(both.contains("web&#60;1&#62; 3.00 MiB 0 B web&#60;1&#62; reported 5.00 MiB"), "{both}");
}

#[tokio::test]
async fn what_a_service_reports_is_in_the_chart_and_its_table() {
    let rig = Rig::new().await;
    let user = rig.demo.user("carol").await.unwrap().user;
    let page = rig.get("/users/carol?by=period").await;
    let json = page.text.split("application/json\">").nth(1).unwrap().split("</script>").next().unwrap();
    let chart: serde_json::Value = serde_json::from_str(json).unwrap();
    let sum = |row: usize| chart["data"][row].as_array().unwrap().iter().map(|it| it.as_u64().unwrap());
    assert_eq!(sum(1).chain(sum(2)).sum::<u64>(), user.total.used_bytes);
    let newest = (sum(1).next_back().unwrap(), sum(2).next_back().unwrap());
    assert_eq!(newest.0 + newest.1, user.period.used_bytes);
    let table = page.text.split("class=\"more\"").nth(1).unwrap().split("</details>").next().unwrap();
    assert!(table.contains(&Size(newest.0).to_string()), "{table}");
}

fn service(kind: &str, pid: Option<u32>, version: Option<&str>, source: Option<SourceKind>) -> ServiceStatus {
    ServiceStatus {
        name: "one".to_owned(),
        kind: kind.to_owned(),
        pid,
        version: version.map(str::to_owned),
        config: None,
        source: SourceStatus { kind: source, connected: true, ..SourceStatus::default() },
        reported: source.is_none(),
    }
}

/// The line of a service in the card of health, without the others.
async fn line(lang: Lang, it: ServiceStatus, alone: bool) -> String {
    let mut demo = Demo::new(now());
    demo.status.services = vec![it];
    if alone {
        demo.status.singbox = SingboxStatus::default();
    }
    demo.status.source = SourceStatus { connected: true, ..demo.status.source };
    let card = Rig::over(Arc::new(demo), "").await.get_in(lang, "/").await;
    part(&card.text, "health-card", "</section>")
}

#[tokio::test]
async fn health_says_what_is_true_of_services_that_count_themselves() {
    let log = Some(SourceKind::LogFile);
    let away = |it: ServiceStatus| ServiceStatus {
        source: SourceStatus { connected: false, ..it.source.clone() },
        ..it
    };
    for (it, text) in [
        (service("v2ray", Some(3), Some("4.34.0"), log), "one (v2ray) version 4.34.0, running source"),
        (service("v2ray", Some(3), None, log), "one (v2ray) running source"),
        (service("v2ray", None, Some("4.34.0"), log), "one (v2ray) ! not running source"),
        (service("v2ray", Some(3), Some("4.34.0"), None), "one (v2ray) version 4.34.0, running source"),
        (away(service("v2ray", None, None, None)), "one (v2ray) ! not running source"),
        (service("nginx", Some(4), None, None), "one (nginx) counts its users itself source"),
        (service("nginx", None, None, None), "one (nginx) counts its users itself source"),
        (
            away(service("nginx", None, None, None)),
            "one (nginx) ! counts its users itself, but does not answer source",
        ),
    ] {
        let card = line(Lang::En, it.clone(), false).await;
        assert!(card.contains(text), "{it:?}: {card}");
    }
    let zh = line(Lang::ZhCn, service("nginx", Some(4), None, None), false).await;
    assert!(zh.contains("one（nginx） 自行统计用户流量 来源"), "{zh}");
}

#[tokio::test]
async fn where_nobody_needs_owners_no_source_is_missed() {
    let nginx = line(Lang::En, service("nginx", Some(4), None, None), true).await;
    assert!(nginx.contains("one (nginx) counts its users itself kernel"), "{nginx}");
    let v2ray = service("v2ray", Some(3), Some("4.34.0"), Some(SourceKind::LogFile));
    let v2ray = line(Lang::En, v2ray, true).await;
    assert!(v2ray.contains("version 4.34.0, running source"), "{v2ray}");
}
