//! Between the agent and what people are told: the thread that sends is started with what it needs, and asked for
//! tests and lists.

use std::sync::Arc;

use boxmeter_web::{
    api::{
        notify::{
            Channel as ApiChannel, ChannelStatus, Failing, Message, MessageState, NotifyShow, NotifyTest,
            NotifyTested, ReportTimes, TestResult,
        },
        types::Schema,
    },
    backend::ApiError,
};
use jiff::tz::TimeZone;

use super::{
    backend::Answerer,
    figures::{self, Source},
    shared::PictureReceiver,
    troubles::Troubles,
};
use crate::{
    clock,
    config::{Config, notify::Notify, notify::web},
    core::notice::{Channel, Notices},
    ledger::{ChannelCounts, Delivery, Ledger, NotifyWanted, Stage},
    notify::{
        Verdict, admins,
        run::{self, Handle, Tested, Work},
    },
};

/// Messages that are shown.
const SHOWN_MAX: usize = 100;

/// At what usage the gate is to tell, if there is anybody to tell.
pub fn notices(config: &Notify) -> Notices {
    if !config.wanted() {
        return Notices::default();
    }
    let ms = |before: &crate::config::notify::Before| i64::try_from(before.0.as_millis()).unwrap_or(i64::MAX);
    Notices {
        percents: config.percentages.clone(),
        expiry_before_ms: config.expiry_before.iter().map(ms).collect(),
    }
}

/// Starts what tells people, if anything is set up, and readies its queue in any case.
///
/// # Errors
/// When there can be no more threads.
pub async fn start(
    config: &Config,
    ledger: &Ledger,
    zone: &TimeZone,
    pictures: PictureReceiver,
    backups: super::care::Statuses,
) -> anyhow::Result<(Option<Handle>, Troubles)> {
    let notify = &config.notify;
    let mut reports = Vec::new();
    if notify.wanted() {
        reports.extend(notify.reports.daily.0.map(|_| "daily"));
        reports.extend(notify.reports.monthly.0.map(|_| "monthly"));
    }
    let wanted = NotifyWanted { any: notify.wanted(), reports };
    let (told, begin) = match ledger.begin_notify(wanted.clone(), clock::wall_ms()).await {
        Ok(told) => (told, None),
        Err(error) => {
            tracing::warn!("readying the queue of messages, which is tried again: {error}");
            (Vec::new(), Some(wanted))
        }
    };
    if !notify.wanted() {
        return Ok((None, Troubles::default()));
    }
    let source = Source {
        pictures,
        ledger: ledger.path().to_owned(),
        wire: config.billing.meter == crate::config::Meter::Wire,
        near_percent: notify.percentages.iter().min().copied().unwrap_or(80),
        top: usize::try_from(notify.reports.top).unwrap_or(usize::MAX),
        backups,
    };
    let work = Work {
        config: notify.clone(),
        ledger: ledger.clone(),
        begin,
        zone: zone.clone(),
        gather: Arc::new(move |span, period| figures::gather(&source, span, period)),
    };
    let handle = run::start(work)?;
    let troubles = Troubles::new(Some(handle.clone()), notify.trouble_after, told);
    Ok((Some(handle), troubles))
}

fn api(channel: Channel) -> ApiChannel {
    match channel {
        Channel::Mail => ApiChannel::Mail,
        Channel::Telegram => ApiChannel::Telegram,
        Channel::Webhook => ApiChannel::Webhook,
    }
}

fn of_api(channel: ApiChannel) -> Channel {
    match channel {
        ApiChannel::Mail => Channel::Mail,
        ApiChannel::Telegram => Channel::Telegram,
        ApiChannel::Webhook => Channel::Webhook,
    }
}

/// As people see a recipient: of a webhook its host and port, since its path may be a secret.
fn place(config: &Notify, channel: Channel, recipient: &str) -> String {
    match channel {
        Channel::Webhook => web(config.webhook.url.expose()).map(|to| to.place()).unwrap_or_default(),
        Channel::Mail | Channel::Telegram => recipient.to_owned(),
    }
}

impl Answerer {
    pub(super) async fn show_notify(&self) -> Result<NotifyShow, ApiError> {
        let (messages, (counts, refused)) =
            self.read(|reader| Ok((reader.deliveries(SHOWN_MAX)?, reader.delivery_counts()?))).await?;
        let config = &self.notify;
        let wanted = [config.mail.wanted(), config.telegram.wanted(), config.webhook.wanted()];
        let set_up = Channel::ALL.into_iter().zip(wanted).filter(|(_, wanted)| *wanted);
        let names = |kinds: &[crate::config::notify::Kind]| {
            kinds.iter().map(|kind| kind.word().to_owned()).collect::<Vec<_>>()
        };
        Ok(NotifyShow {
            schema: Schema,
            channels: set_up.map(|(channel, _)| self.channel_status(channel, &counts)).collect(),
            kinds: names(&config.kinds),
            to_users: names(&config.to_users),
            percentages: config.percentages.clone(),
            expiry_before_s: config.expiry_before.iter().map(|before| before.0.as_secs()).collect(),
            language: match config.language {
                crate::config::notify::Tongue::English => "en".to_owned(),
                crate::config::notify::Tongue::Chinese => "zh-CN".to_owned(),
            },
            reports: self.report_times(),
            refused,
            messages: messages.iter().map(|message| self.message(message)).collect(),
        })
    }

    fn channel_status(&self, channel: Channel, counts: &[ChannelCounts]) -> ChannelStatus {
        let counts = counts.iter().find(|counts| counts.channel == channel);
        let states = self.notifier.as_ref().map(|notifier| Arc::clone(&notifier.states.borrow()));
        let index = Channel::ALL.iter().position(|it| *it == channel).unwrap_or(0);
        let failing = states.and_then(|states| states[index].failing().cloned());
        let to = admins(&self.notify, channel);
        ChannelStatus {
            channel: api(channel),
            to: to.iter().map(|to| place(&self.notify, channel, to)).collect(),
            waiting: counts.map_or(0, |counts| counts.waiting),
            last_sent_at: counts.and_then(|counts| counts.last_sent_ms).map(|ms| self.time(ms)),
            failing: failing.map(|(since_ms, reason)| Failing { since: self.time(since_ms), reason }),
        }
    }

    fn report_times(&self) -> ReportTimes {
        let reports = &self.notify.reports;
        let time = |at: crate::config::notify::At| at.0.map(|time| time.strftime("%H:%M").to_string());
        ReportTimes {
            daily: time(reports.daily),
            monthly: time(reports.monthly),
            time_zone: match reports.time_zone.as_str() {
                "billing" => self.zone.iana_name().map(str::to_owned),
                name => Some(name.to_owned()),
            },
            channels: reports.by.iter().map(|&channel| api(channel)).collect(),
        }
    }

    fn message(&self, message: &Delivery) -> Message {
        Message {
            id: message.id.to_string(),
            channel: api(message.channel),
            recipient: place(&self.notify, message.channel, &message.recipient),
            kind: message.kind.clone(),
            user: message.data["user"].as_str().map(str::to_owned),
            state: match message.stage {
                Stage::Waiting => MessageState::Waiting,
                Stage::Sending => MessageState::Sending,
                Stage::Sent => MessageState::Sent,
                Stage::Failed => MessageState::Failed,
                Stage::Expired => MessageState::Expired,
                Stage::Unsure => MessageState::Unsure,
            },
            created_at: self.time(message.created_ms),
            attempts: message.attempts,
            next_at: (message.stage == Stage::Waiting).then(|| self.time(message.next_ms)),
            done_at: message.done_ms.map(|ms| self.time(ms)),
            error: message.error.clone(),
        }
    }

    pub(super) async fn run_notify_test(&self, test: NotifyTest) -> Result<NotifyTested, ApiError> {
        let channel = test.channel.map(of_api);
        let wanted = Channel::ALL.into_iter().filter(|it| channel.is_none_or(|channel| channel == *it));
        if wanted.flat_map(|it| admins(&self.notify, it)).next().is_none() {
            return Err(ApiError::conflict(match channel {
                None => {
                    "no channel is set up: add [notify.mail], [notify.telegram] or [notify.webhook] to the \
                         configuration and restart the agent"
                        .to_owned()
                }
                Some(Channel::Mail) if self.notify.mail.wanted() => {
                    "[notify.mail] has no `to`: the admin gets no mail".to_owned()
                }
                Some(channel) => {
                    let name = channel.word();
                    format!(
                        "[notify.{name}] is not set up: add it to the configuration and restart the agent"
                    )
                }
            }));
        }
        let ending =
            || ApiError::unavailable("another test is being sent, or the agent is ending; try again");
        let notifier = self.notifier.as_ref().ok_or_else(ending)?;
        let results: Vec<TestResult> = notifier
            .test(channel)
            .await
            .ok_or_else(ending)?
            .into_iter()
            .map(|tested| self.tested(tested))
            .collect();
        Ok(NotifyTested { schema: Schema, ok: results.iter().all(|result| result.ok), results })
    }

    fn tested(&self, tested: Tested) -> TestResult {
        let message = match &tested.verdict {
            Verdict::Done => "sent".to_owned(),
            Verdict::Later { why, .. } | Verdict::Refused { why, .. } => why.clone(),
            Verdict::Unsure { why } => format!("it may have arrived: {why}"),
        };
        TestResult {
            channel: api(tested.channel),
            recipient: place(&self.notify, tested.channel, &tested.recipient),
            ok: tested.verdict == Verdict::Done,
            message,
            took_ms: tested.took_ms,
        }
    }
}
