//! `boxmeter notify`: test messages, and what waits, was sent or failed.

use boxmeter_web::{
    api::notify::{Channel, ChannelStatus, Message, MessageState, NotifyShow, NotifyTest, NotifyTested},
    backend::{ApiError, Backend, ErrorKind},
};
use clap::{Args, Subcommand, ValueEnum};

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, minute, safe, safe_cut},
    table::{Cell, Table},
};

#[derive(Debug, Args)]
pub struct NotifyArgs {
    #[command(subcommand)]
    verb: NotifyVerb,
}

#[derive(Debug, Subcommand)]
enum NotifyVerb {
    /// Send a test message to the admin at once, and say what came of it.
    Test {
        /// Only by this channel; by default by all that are set up.
        #[arg(long, value_name = "CHANNEL")]
        channel: Option<By>,
    },
    /// What is set up, and the messages that wait, were sent or failed.
    List,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Mail,
    Telegram,
    Webhook,
}

impl From<By> for Channel {
    fn from(by: By) -> Self {
        match by {
            By::Mail => Channel::Mail,
            By::Telegram => Channel::Telegram,
            By::Webhook => Channel::Webhook,
        }
    }
}

pub async fn run(context: &Context, args: NotifyArgs) -> Result<(), Failure> {
    match args.verb {
        NotifyVerb::Test { channel } => test(context, channel.map(Into::into)).await,
        NotifyVerb::List => list(context).await,
    }
}

async fn test(context: &Context, channel: Option<Channel>) -> Result<(), Failure> {
    let tested = context.client()?.test_notify(context.envelope(None), NotifyTest { channel }).await?;
    if context.json {
        context.print_json(&tested)?;
    } else {
        context.print(&render_test(context, &tested))?;
    }
    match tested.results.iter().filter(|result| !result.ok).count() {
        0 => Ok(()),
        failed => {
            let text = format!("{failed} of {} test messages did not get through", tested.results.len());
            Err(ApiError::new(ErrorKind::Unavailable, text).into())
        }
    }
}

fn name(context: &Context, channel: Channel) -> String {
    context.lang.text(&format!("notify_channel.{}", channel.as_str())).to_owned()
}

pub fn render_test(context: &Context, tested: &NotifyTested) -> String {
    let mut out = String::new();
    for result in &tested.results {
        let (key, tone) = match result.ok {
            true => ("notify_test.sent", Tone::Good),
            false => ("notify_test.failed", Tone::Bad),
        };
        let values = [
            ("channel", &*name(context, result.channel)),
            ("to", &safe_cut(&result.recipient, 80)),
            ("ms", &result.took_ms.to_string()),
            ("message", &safe(&result.message)),
        ];
        out.push_str(&context.paint(tone, &context.fill(key, &values)));
        out.push('\n');
    }
    out
}

async fn list(context: &Context) -> Result<(), Failure> {
    let shown = context.client()?.notify().await?;
    if context.json {
        return context.print_json(&shown);
    }
    context.print(&render(context, &shown))
}

pub fn render(context: &Context, shown: &NotifyShow) -> String {
    if shown.channels.is_empty() && shown.messages.is_empty() {
        return context.text("notify_list.none").to_owned();
    }
    let mut out = String::new();
    for it in &shown.channels {
        out.push_str(&channel(context, it));
    }
    if shown.refused > 0 {
        let text = context.fill("notify_list.refused", &[("count", &shown.refused.to_string())]);
        out.push_str(&format!("{}\n", context.paint(Tone::Warn, &text)));
    }
    out.push('\n');
    match shown.messages.is_empty() {
        true => out.push_str(context.text("notify_list.no_messages")),
        false => out.push_str(&messages(context, &shown.messages)),
    }
    out
}

fn channel(context: &Context, it: &ChannelStatus) -> String {
    let last = it.last_sent_at.as_ref().map_or_else(|| context.text("notify_list.never").to_owned(), minute);
    let values = [
        ("channel", &*name(context, it.channel)),
        ("to", &safe_cut(&it.to.join(", "), 100)),
        ("waiting", &it.waiting.to_string()),
        ("last", &last),
    ];
    let mut out = format!("{}\n", context.fill("notify_list.channel", &values));
    if let Some(failing) = &it.failing {
        let values = [("time", &*minute(&failing.since)), ("reason", &safe(&failing.reason))];
        let text = context.fill("notify_list.failing", &values);
        out.push_str(&format!("  {}\n", context.paint(Tone::Bad, &text)));
    }
    out
}

fn messages(context: &Context, messages: &[Message]) -> String {
    let mut table = Table::new(context)
        .words("col.next", 0)
        .words("col.channel", 0)
        .words("col.recipient", 2)
        .words("col.kind", 0)
        .words("col.user", 0)
        .words("col.state", 0)
        .numbers("col.attempts", 2)
        .words("col.message", 1);
    for it in messages {
        let at = it.done_at.as_ref().or(it.next_at.as_ref()).unwrap_or(&it.created_at);
        let bad = matches!(it.state, MessageState::Failed | MessageState::Expired | MessageState::Unsure);
        let state = context.lang.text(&format!("notify_state.{}", it.state.as_str())).to_owned();
        let kind = context.lang.find(&format!("notify_kind.{}", it.kind)).unwrap_or(&it.kind).to_owned();
        table.row(vec![
            Cell::new(minute(at)),
            Cell::new(name(context, it.channel)),
            Cell::name(&it.recipient),
            Cell::new(kind),
            Cell::name(it.user.as_deref().unwrap_or_default()),
            Cell::new(state).tone_if(bad, Tone::Bad),
            Cell::new(it.attempts.to_string()),
            Cell::name(it.error.as_deref().unwrap_or_default()),
        ]);
    }
    table.render()
}
