//! `boxmeter events`: what happened, and why.

use boxmeter_web::{
    api::{
        query::{EventQuery, Page},
        told,
        types::{Event, Reason, Severity},
    },
    locale::Lang,
};
use clap::Args;

use super::{
    context::Context,
    failure::Failure,
    format::{Tone, safe, safe_cut, second},
};

/// Where the list begins by default: who looks wants the last days, not years.
const SINCE_DEFAULT: &str = "-7d";

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Only what concerns this user.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Beginning: a date, an RFC 3339 time, today, yesterday, month, -7d, -3h.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, default_value = SINCE_DEFAULT)]
    since: String,
}

pub async fn run(context: &Context, args: EventsArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let [since] = context.times(&client, [("--since", Some(args.since.as_str()))]).await?;
    let query = EventQuery { user: args.user, since, page: Page::default() };
    let list = client.events_all(query).await?;
    if context.json {
        return context.print_json(&list);
    }
    context.print(&render(context, &list.events, &args.since))
}

/// One line per event; long messages are left to the terminal, which keeps them whole.
pub fn render(context: &Context, events: &[Event], since: &str) -> String {
    if events.is_empty() {
        return context.fill("events.none", &[("since", &safe(since))]);
    }
    let mut out = String::new();
    for event in events {
        let at = context.paint(Tone::Dim, &second(&event.at));
        let kind = safe_cut(&event.kind, 40);
        let kind = match event.severity {
            Severity::Info => kind,
            Severity::Warning => context.paint(Tone::Warn, &kind),
            Severity::Error => context.paint(Tone::Bad, &kind),
        };
        let user = match &event.user {
            Some(user) => format!("{}  ", context.paint(Tone::Bold, &safe_cut(user, 40))),
            None => String::new(),
        };
        let who = match event.who.as_deref() {
            None | Some("agent") => String::new(),
            Some(who) => context.paint(Tone::Dim, &format!("  ({})", safe_cut(who, 40))),
        };
        out.push_str(&format!("{at}  {kind}  {user}{}{who}\n", safe(&explanation(context, event))));
    }
    out
}

/// Why it happened: in the reader's language where the reason is known by its kind, else as the
/// agent said it.
fn explanation(context: &Context, event: &Event) -> String {
    let data = event.data.as_ref();
    let cause = data.and_then(|data| serde_json::from_value::<Reason>(data.get("cause")?.clone()).ok());
    let zone = data.and_then(|data| data.get("time_zone")?.as_str());
    let zoned = event.at.zoned();
    let told = data.and_then(|data| told::sentence(&event.kind, data, zoned.time_zone(), context.lang));
    match cause {
        // The agent's own sentence is English already, and may say more than the reason.
        Some(cause) if context.lang != Lang::En => cause.sentence(context.lang, zone),
        _ if context.lang != Lang::En => told.unwrap_or_else(|| event.message.clone()),
        _ => event.message.clone(),
    }
}
