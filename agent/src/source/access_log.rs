//! Source: the access log of V2Ray or Xray, tailed by `log_file`. A line stands for one connection, and
//! names the client's address and the user; on which inbound only newer versions say.
//!
//! Its times are of the zone that the proxy has, which is not always the machine's: the file's own time of
//! modification tells how far that is from UTC.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    clock,
    core::event::{Sighting, SourceEvent, SourceKind},
    service::Service,
};

use super::{
    KnownInbounds,
    access_line::{self, Accepted, Names},
    log_file::{Lines, Written},
    log_line::USER_UNKNOWN,
};

/// Zones differ from UTC by multiples of this.
const ZONE_STEP_S: i64 = 15 * 60;

/// A file's last line was written when it was modified, give or take this.
const MODIFIED_WITHIN_S: i64 = 5;

/// A line names the second in which it was written.
const SECOND_MS: i64 = 999;

/// A line of somebody who is not known yet is held for so long: a user is let in by the proxy's API a moment
/// before it is seen that the file has him.
const HELD_MS: u64 = 4_000;

/// Lines that are held. Beyond that, nobody's.
const HELD_MAX: usize = 1_024;

/// Lines of the past whose zone nothing tells.
pub const ZONE_UNKNOWN: &str = "log_zone_unknown";

/// See the module.
pub struct AccessLines {
    service: Service,
    names: Names,
    /// How far the log's clock is ahead of UTC, where that is known.
    ahead_s: Option<i64>,
    /// Told apart from those of another life of this source.
    began_ns: u64,
    serial: u64,
    /// Lines of users who are not known yet, and when they came (ms).
    held: VecDeque<(u64, Box<str>)>,
    known_anew: bool,
}

impl AccessLines {
    pub fn new(service: Service) -> AccessLines {
        AccessLines {
            service,
            names: Names::default(),
            ahead_s: None,
            began_ns: clock::mono_ns(),
            serial: 0,
            held: VecDeque::new(),
            known_anew: false,
        }
    }

    fn sighting(&mut self, accepted: Accepted, created_ms: Option<i64>) -> Sighting {
        self.serial += 1;
        // The parser gives at least one.
        let mut inbounds = accepted.inbounds.into_iter();
        let inbound = inbounds.next().unwrap_or_default();
        Sighting {
            source: SourceKind::LogFile,
            connection: format!("{}-{}-{}", self.service.name, self.began_ns, self.serial).into(),
            inbound,
            or_inbounds: inbounds.collect(),
            network: accepted.network,
            peer: accepted.peer,
            user: accepted.user,
            created_ms,
            within_ms: created_ms.map_or(0, |_| SECOND_MS),
            closed: false,
            totals: None,
        }
    }
}

/// How far a log's clock is ahead of UTC, from its last line and when it was written.
fn ahead(text: &[u8], modified_s: i64) -> Option<i64> {
    let lines = text.split(|&byte| byte == b'\n').rev();
    let shown_s =
        lines.filter_map(|line| Some(access_line::split_time(std::str::from_utf8(line).ok()?)?.0)).next()?;
    let apart = shown_s - modified_s;
    let zone = (apart + ZONE_STEP_S / 2).div_euclid(ZONE_STEP_S) * ZONE_STEP_S;
    ((apart - zone).abs() <= MODIFIED_WITHIN_S).then_some(zone)
}

impl Lines for AccessLines {
    fn on_line(&mut self, line: &[u8], written: Written, out: &mut Vec<SourceEvent>) {
        // Clients choose what is asked for, as any bytes; who asks and from where is in others.
        let line = &*String::from_utf8_lossy(line);
        let written_as = |tag: &Arc<str>| self.service.written(tag).map(str::to_owned);
        match (access_line::parse(&self.names, written_as, line), written) {
            (None, _) => {}
            (Some(Err(USER_UNKNOWN)), Written::Now(now_ms)) if self.held.len() < HELD_MAX => {
                self.held.push_back((now_ms, line.into()));
            }
            (Some(Err(counter)), _) => out.push(SourceEvent::Lost { counter, count: 1 }),
            (Some(Ok(accepted)), Written::Now(_)) => {
                let sighting = self.sighting(accepted, None);
                out.push(SourceEvent::Sighting(sighting));
            }
            (Some(Ok(accepted)), Written::Before) => match self.ahead_s {
                Some(ahead_s) => {
                    let created_ms = accepted.shown_s.saturating_sub(ahead_s).saturating_mul(1000);
                    let sighting = self.sighting(accepted, Some(created_ms));
                    out.push(SourceEvent::Sighting(sighting));
                }
                None => out.push(SourceEvent::Lost { counter: ZONE_UNKNOWN, count: 1 }),
            },
        }
    }

    fn set_known(&mut self, known: KnownInbounds) {
        self.names = Names::new(known);
        self.known_anew = true;
    }

    fn later(&mut self, now_ms: u64, out: &mut Vec<SourceEvent>) {
        if std::mem::take(&mut self.known_anew) {
            for (at_ms, line) in std::mem::take(&mut self.held) {
                // Whoever is still not known waits on.
                self.on_line(line.as_bytes(), Written::Now(at_ms), out);
            }
        }
        while self.held.front().is_some_and(|(at_ms, _)| now_ms.saturating_sub(*at_ms) >= HELD_MS) {
            self.held.pop_front();
            out.push(SourceEvent::Lost { counter: USER_UNKNOWN, count: 1 });
        }
    }

    fn are_timed(&self) -> bool {
        true
    }

    fn before(&mut self, text: &[u8], modified_s: i64) {
        self.ahead_s = ahead(text, modified_s);
    }

    fn names(&self) -> (&'static str, &'static str) {
        ("the access log", "`log.access` in the configuration of V2Ray or Xray")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, time::SystemTime};

    use super::*;
    use crate::{
        service::Kind,
        source::{
            KnownInbound, KnownUser,
            log_file::{TRUNCATED, Tailer},
        },
    };

    fn service() -> Service {
        Service { kind: Kind::V2ray, name: "v".into() }
    }

    fn known() -> KnownInbounds {
        let users = [("bob".into(), KnownUser::Named)].into();
        KnownInbounds(Arc::new(vec![KnownInbound { kind: "trojan".into(), tag: "v/t".into(), users }]))
    }

    fn line(second: u32, port: u16) -> String {
        format!("2026/11/30 08:26:{second:02} 1.2.3.4:{port} accepted tcp:h:1 [direct] email: bob\n")
    }

    fn told(tailer: &mut Tailer<AccessLines>) -> Vec<String> {
        let mut out = Vec::new();
        while tailer.poll(0, &mut out) {}
        let said = out.iter().map(|event| match event {
            SourceEvent::Sighting(it) => format!("{} {} {:?}", it.user, it.peer, it.created_ms),
            SourceEvent::Lost { counter, count } => format!("{counter} {count}"),
            SourceEvent::Connected { .. } => "connected".to_owned(),
            other => format!("{other:?}"),
        });
        said.collect()
    }

    /// A client of an http inbound chooses what it asks for.
    #[test]
    fn bytes_that_are_no_text_hide_nobody() {
        let mut lines = AccessLines::new(service());
        lines.set_known(known());
        let mut out = Vec::new();
        let line = b"2026/11/30 08:26:01 1.2.3.4:5 accepted http://h/?\xff [direct] email: bob";
        lines.on_line(line, Written::Now(1), &mut out);
        assert!(matches!(&out[..], [SourceEvent::Sighting(it)] if &*it.user == "bob"), "{out:?}");
    }

    /// The proxy lets a new user in before anybody here knows that there is one.
    #[test]
    fn a_line_of_somebody_who_becomes_known_a_moment_later_is_his() {
        let mut lines = AccessLines::new(service());
        lines.set_known(known());
        let mut out = Vec::new();
        let text =
            |name: &str| format!("2026/11/30 08:26:11 1.2.3.4:1 accepted tcp:h:1 [direct] email: {name}");
        lines.on_line(text("new").as_bytes(), Written::Now(1_000), &mut out);
        lines.on_line(text("nobody").as_bytes(), Written::Now(1_500), &mut out);
        lines.later(2_000, &mut out);
        assert_eq!(out, [], "held");
        let users = [("bob".into(), KnownUser::Named), ("new".into(), KnownUser::Named)].into();
        lines.set_known(KnownInbounds(Arc::new(vec![KnownInbound {
            kind: "trojan".into(),
            tag: "v/t".into(),
            users,
        }])));
        lines.later(3_000, &mut out);
        assert!(matches!(&out[..], [SourceEvent::Sighting(it)] if &*it.user == "new"), "{out:?}");
        out.clear();
        lines.later(1_499 + HELD_MS, &mut out);
        assert_eq!(out, []);
        lines.later(1_500 + HELD_MS, &mut out);
        assert_eq!(out, [SourceEvent::Lost { counter: USER_UNKNOWN, count: 1 }]);
    }

    /// What was seen by one life of the source is not what the next one sees.
    #[test]
    fn connections_are_numbered_apart_in_each_life() {
        let ids = || {
            let mut lines = AccessLines::new(service());
            lines.set_known(known());
            let mut out = Vec::new();
            lines.on_line(line(1, 1).trim_end().as_bytes(), Written::Now(0), &mut out);
            match &out[..] {
                [SourceEvent::Sighting(it)] => it.connection.clone(),
                other => panic!("{other:?}"),
            }
        };
        assert_ne!(ids(), ids());
    }

    /// Rotated by moving, rotated by cutting, and what was there before; in the proxy's own zone.
    #[test]
    fn the_file_is_followed_and_its_past_has_the_right_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        fs::write(&path, line(10, 1) + &line(11, 2)).unwrap();
        // Half past midnight in UTC, where the proxy shows eight hours more.
        let shown = access_line::split_time(&line(11, 1)).unwrap().0;
        let utc_s = shown - 8 * 3600;
        let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(utc_s as u64 + 1);
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let mut lines = AccessLines::new(service());
        lines.set_known(known());
        let mut tailer = Tailer::new(path.clone(), lines);
        let before = |port: u16, second: i64| format!("bob 1.2.3.4:{port} {:?}", Some(second * 1000));
        assert_eq!(told(&mut tailer), [before(1, utc_s - 1), before(2, utc_s), "connected".to_owned()]);
        let append = |text: &str| {
            fs::File::options().append(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap()
        };
        append(&line(12, 3));
        append("2026/11/30 08:26:12 1.2.3.4:9 acc");
        assert_eq!(told(&mut tailer), ["bob 1.2.3.4:3 None"]);
        append("epted tcp:h:1 [direct] email: bob\nemail: bob\n");
        assert_eq!(told(&mut tailer), ["bob 1.2.3.4:9 None"]);
        fs::rename(&path, folder.path().join("old")).unwrap();
        fs::File::options()
            .append(true)
            .open(folder.path().join("old"))
            .unwrap()
            .write_all(line(13, 4).as_bytes())
            .unwrap();
        fs::write(&path, line(14, 5)).unwrap();
        let mut both = told(&mut tailer);
        both.sort();
        assert_eq!(both, ["bob 1.2.3.4:4 None", "bob 1.2.3.4:5 None"]);
        fs::write(&path, "").unwrap();
        assert_eq!(told(&mut tailer), [format!("{TRUNCATED} 1")]);
        append(&line(15, 6));
        assert_eq!(told(&mut tailer), ["bob 1.2.3.4:6 None"]);
    }

    #[test]
    fn a_past_of_unknown_zone_is_nobodys() {
        let mut lines = AccessLines::new(service());
        lines.set_known(known());
        let text = line(11, 1);
        let shown = access_line::split_time(&text).unwrap().0;
        for (apart, known) in [(0, true), (-8 * 3600, true), (19_800, true), (7 * 60, false)] {
            lines.before(text.as_bytes(), shown - apart);
            assert_eq!(lines.ahead_s.is_some(), known, "{apart}");
            assert!(lines.ahead_s.is_none_or(|ahead| ahead == apart));
        }
        let mut out = Vec::new();
        lines.on_line(text.trim_end().as_bytes(), Written::Before, &mut out);
        assert_eq!(out, [SourceEvent::Lost { counter: ZONE_UNKNOWN, count: 1 }]);
    }
}
