//! Source: `StatsService` (gRPC) of V2Ray 4 and 5, Xray and sing-box with v2ray_api: totals per user. All of
//! them answer under one path. What a server makes of a pattern differs, so that answers are filtered here, and
//! `reset` is never sent: it would take the counters from everybody else who reads them.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{connect, life};
use crate::{
    clock,
    core::counters::{COUNTER_MAX, COUNTERS_MAX, Counter, Key, Life, Reading},
};
use boxmeter_web::api::names::NAME_BYTES_MAX;

/// Generated from `proto/stats.proto`.
mod proto {
    #![allow(missing_docs, clippy::all, clippy::unwrap_used)]
    tonic::include_proto!("v2ray.core.app.stats.command");
}

use proto::{QueryStatsRequest, Stat, SysStatsRequest, stats_service_client::StatsServiceClient};

/// A busy machine may be late once; how long it runs tells a restart.
const LIFE_TRIES: usize = 3;

/// No answer to a single call in this time is a failure.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer; a counter takes some hundred.
const MESSAGE_MAX: usize = 32 << 20;

/// What counters of users begin with.
const USER: &str = "user>>>";

/// Why there are no totals; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    #[error(
        "the API at {addr} cannot be reached ({error}); is the proxy running, and is this its configuration?"
    )]
    Connect { addr: SocketAddr, error: io::Error },
    #[error(
        "the API at {addr} has no StatsService; add it to `api.services`, `\"stats\": {{}}` and \
         `statsUserUplink` and `statsUserDownlink` of the users' policy level, and restart it"
    )]
    Missing { addr: SocketAddr },
    #[error("the API at {addr} refuses: {error}")]
    Refused { addr: SocketAddr, error: String },
    #[error("the proxy was restarted while it was asked; it is asked again")]
    Restarted,
    #[error("the API at {addr} takes longer than a second to say how long it runs; it is asked again")]
    Slow { addr: SocketAddr },
    #[error("it has more than {COUNTERS_MAX} counters of users; nothing of them was counted")]
    TooMany,
}

/// A connection to one proxy's API.
pub struct Stats {
    addr: SocketAddr,
    client: StatsServiceClient<Channel>,
}

impl Stats {
    /// Connects, in the network namespace if one is given.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(addr: SocketAddr, netns: Option<PathBuf>) -> Result<Stats, StatsError> {
        let addr = SocketAddr::new(connect::reachable(addr.ip()), addr.port());
        let failed = |error| StatsError::Connect { addr, error };
        let stream = connect::connect(addr, netns).await.map_err(failed)?;
        let mut stream = Some(TokioIo::new(stream));
        // The name is of no account: the connection is made already, and is not made again.
        let endpoint = Endpoint::from_static("http://localhost").timeout(CALL_TIMEOUT);
        let channel = endpoint
            .connect_with_connector(service_fn(move |_| {
                let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
                async move { stream }
            }))
            .await;
        let channel = channel.map_err(|error| failed(io::Error::other(error)))?;
        let client = StatsServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
        Ok(Stats { addr, client })
    }

    /// Asks once: how long it runs before and after the counters, so that they are of one life.
    ///
    /// # Errors
    /// See [`StatsError`]; whatever it is, nothing is lost: the counters stay in the proxy.
    pub async fn read(&mut self) -> Result<Reading, StatsError> {
        let before = self.life().await?;
        let request = QueryStatsRequest { pattern: USER.to_owned(), patterns: vec![USER.to_owned()] };
        let answer = self.client.query_stats(Request::new(request)).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        let after = self.life().await?;
        match (before, after) {
            (Some(before), Some(after)) if !before.is(&after) => Err(StatsError::Restarted),
            // Where one is not told the counters may be of another start.
            _ => Ok(Reading { life: before.and(after), ..counters(answer.stat)? }),
        }
    }

    /// `None` where it does not say how long it runs. Counters of which it is not known whether they began anew are
    /// not taken: they are there the next time, too.
    async fn life(&mut self) -> Result<Option<Life>, StatsError> {
        for _ in 0..LIFE_TRIES {
            let asked_ns = clock::mono_ns();
            let answer = match self.client.get_sys_stats(Request::new(SysStatsRequest {})).await {
                Ok(answer) => answer.into_inner(),
                Err(status) if status.code() == Code::Unimplemented => return Ok(None),
                Err(status) => return Err(self.failed(&status)),
            };
            let life = life::of_uptime(answer.uptime.into(), (asked_ns, clock::mono_ns()));
            if life.is_some() {
                return Ok(life);
            }
        }
        Err(StatsError::Slow { addr: self.addr })
    }

    fn failed(&self, status: &Status) -> StatsError {
        let addr = self.addr;
        match status.code() {
            Code::Unimplemented => StatsError::Missing { addr },
            _ => StatsError::Refused { addr, error: status.message().to_owned() },
        }
    }
}

/// Those of users; each direction is a counter of its own.
fn counters(stats: Vec<Stat>) -> Result<Reading, StatsError> {
    let mut reading = Reading::default();
    for Stat { name, value } in stats {
        let Some((user, download)) = user(&name) else { continue };
        if reading.counters.len() + reading.refused.len() >= COUNTERS_MAX {
            return Err(StatsError::TooMany);
        }
        let key = key_of(&name);
        match u64::try_from(value).ok().filter(|value| *value <= COUNTER_MAX) {
            Some(value) => {
                let bytes = if download { [0, value] } else { [value, 0] };
                // One that cannot be a user's is not kept: it is nobody's.
                let user = Some(user).filter(|user| user.len() <= NAME_BYTES_MAX).unwrap_or_default();
                reading.counters.push(Counter { key, name: Arc::from(user), bytes });
            }
            None => reading.refused.push(key),
        }
    }
    Ok(reading)
}

/// The user of a counter, and whether it is of downloads. Names may hold anything, also what separates.
fn user(name: &str) -> Option<(&str, bool)> {
    let rest = name.strip_prefix(USER)?;
    rest.strip_suffix(">>>traffic>>>uplink")
        .map(|user| (user, false))
        .or_else(|| rest.strip_suffix(">>>traffic>>>downlink").map(|user| (user, true)))
}

fn key_of(name: &str) -> Key {
    let mut short = Key::default();
    short.copy_from_slice(&Sha256::digest(name)[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::counters::by_name;

    /// As V2Ray 4.34 answered.
    const REAL: &str = include_str!("../../../tests/fixtures/v2ray/sample_v2ray4_stats.json");

    fn sample() -> Vec<Stat> {
        let json: serde_json::Value = serde_json::from_str(REAL).unwrap();
        let stats = json["QueryStats pattern=\"\" reset=false"]["stat"].as_array().unwrap();
        let stat = |stat: &serde_json::Value| Stat {
            name: stat["name"].as_str().unwrap().to_owned(),
            value: stat["value"].as_str().map_or(0, |value| value.parse().unwrap()),
        };
        stats.iter().map(stat).collect()
    }

    #[test]
    fn only_counters_of_users_are_taken_whatever_the_server_makes_of_a_pattern() {
        let found = by_name(&counters(sample()).unwrap());
        let of = |name: &str| found[name];
        assert_eq!(found.len(), 3);
        assert_eq!(of("user1@example.com"), [1_000_409, 3_000_615]);
        assert_eq!(of("user2@example.com"), [85, 1_000_205]);
        assert_eq!(of("user3@example.com"), [170, 2_000_410]);
    }

    #[test]
    fn odd_names_and_values_are_told_apart() {
        let stat = |name: &str, value| Stat { name: name.to_owned(), value };
        let long = format!("user>>>{}>>>traffic>>>uplink", "x".repeat(10 << 20));
        let reading = counters(vec![
            stat("user>>>a>>>b>>>traffic>>>uplink", 1),
            stat("user>>>A>>>traffic>>>uplink", 2),
            stat("user>>>a>>>traffic>>>uplink", 3),
            stat("user>>>a>>>traffic>>>downlink", -1),
            stat("user>>>a>>>traffic", 9),
            stat("inbound>>>user>>>traffic>>>uplink", 9),
            stat(&long, 4),
        ])
        .unwrap();
        let found: Vec<_> = by_name(&reading).into_iter().collect();
        let expected = [("", [4, 0]), ("A", [2, 0]), ("a", [3, 0]), ("a>>>b", [1, 0])];
        assert_eq!(found, expected.map(|(name, bytes)| (name.into(), bytes)));
        assert_eq!(reading.refused, [key_of("user>>>a>>>traffic>>>downlink")]);
        let many = (0..=COUNTERS_MAX).map(|n| stat(&format!("user>>>{n}>>>traffic>>>uplink"), 1));
        assert!(matches!(counters(many.collect()), Err(StatsError::TooMany)));
    }
}
