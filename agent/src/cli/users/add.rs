//! `boxmeter users add`: a new account in sing-box's configuration; its credentials are printed
//! this once.

use boxmeter_web::{
    api::types::{NewUser, Status, UserAdded},
    backend::{ApiError, Backend},
};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::{UserOptions, checked, enforcement, expiry, quoted, text_or_none};
use crate::cli::{
    context::Context,
    failure::Failure,
    format::{Tone, safe, safe_cut},
    table::pairs,
};

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The new user's name.
    name: String,
    #[command(flatten)]
    options: UserOptions,
}

pub async fn run(context: &Context, args: AddArgs) -> Result<(), Failure> {
    let AddArgs { name, options } = args;
    // A new user has nothing of its own that could be given back.
    let (terms, _) = options.terms.read();
    let mut new = NewUser {
        name,
        policy: options.policy,
        terms,
        email: options.email.and_then(text_or_none),
        note: options.note.and_then(text_or_none),
        expires_at: None,
        inbounds: options.inbounds,
    };
    checked(new.check(Timestamp::now()))?;
    let client = context.client()?;
    if let Some(text) = &options.expires {
        new.expires_at = expiry(context, &client, text).await?;
    }
    if new.inbounds.is_none() {
        new.inbounds = Some(every_inbound(context, &client.status().await?)?);
    }
    let added = client.add_user(context.envelope(None), new).await?;
    if context.json {
        return context.print_json(&added);
    }
    context.print(&render(context, &added))
}

/// Every inbound with users, told before anything is done.
fn every_inbound(context: &Context, status: &Status) -> Result<Vec<String>, Failure> {
    let with_users = status.inbounds.iter().filter(|inbound| inbound.users > 0);
    let tags: Vec<String> = with_users.map(|inbound| inbound.tag.clone()).collect();
    if tags.is_empty() {
        return Err(ApiError::bad_request(context.text("users.no_inbounds")).into());
    }
    if !context.json {
        let list = tags.iter().map(|tag| safe_cut(tag, 40)).collect::<Vec<_>>().join(", ");
        context.complain(&context.fill("users.every_inbound", &[("inbounds", &list)]));
    }
    Ok(tags)
}

pub fn render(context: &Context, added: &UserAdded) -> String {
    let user = &added.user;
    let values = [("name", &*quoted(&user.name)), ("policy", &quoted(user.policy.as_deref().unwrap_or("–")))];
    let done = context.paint(Tone::Good, &context.fill("users.added", &values));
    let mut out = format!("{done}\n{}\n\n", enforcement(context, user));
    out.push_str(context.text("users.credentials"));
    out.push('\n');
    for credential in &added.credentials {
        let inbound = context.paint(Tone::Bold, &safe_cut(&credential.inbound, 40));
        out.push_str(&format!("\n{inbound} ({})\n", safe_cut(&credential.kind, 20)));
        let lines: Vec<(&str, String)> =
            credential.entry.iter().map(|(name, value)| (name.as_str(), plain(value))).collect();
        out.push_str(&pairs(&lines));
    }
    out
}

/// A value as it is to be copied: texts without their quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => safe(text),
        other => safe(&other.to_string()),
    }
}
