//! `boxmeter users links`: a user's links and the address of the subscription, for root.

use boxmeter_web::{api::sharing::UserCredentials, backend::Backend, share::qr};
use clap::Args;

use super::quoted;
use crate::cli::{
    context::Context,
    failure::Failure,
    format::{Tone, safe, safe_cut},
};

#[derive(Debug, Args)]
pub struct LinksArgs {
    /// The user's name in sing-box's configuration.
    name: String,
    /// A new secret for the subscription; the old address is dead at once.
    #[arg(long)]
    rotate: bool,
    /// Draw the address of the subscription, or the only link, as a QR code.
    #[arg(long)]
    qr: bool,
}

pub async fn run(context: &Context, args: LinksArgs) -> Result<(), Failure> {
    let client = context.client()?;
    let shown = match args.rotate {
        true => client.rotate_subscription(context.envelope(None), &args.name).await?,
        false => client.credentials(&args.name).await?,
    };
    if context.json {
        return context.print_json(&shown);
    }
    context.print(&render(context, &shown, args.qr))
}

pub fn render(context: &Context, shown: &UserCredentials, draw: bool) -> String {
    let mut out = format!("{}\n", context.paint(Tone::Bold, &quoted(&shown.user)));
    out.push_str(&match &shown.url {
        Some(url) => context.fill("links.subscription", &[("url", &safe(url))]),
        None => context.fill("links.path", &[("path", &safe(&shown.path))]),
    });
    out.push('\n');
    for it in &shown.servers {
        let inbound = context.paint(Tone::Bold, &safe_cut(&it.server.inbound, 40));
        out.push_str(&format!("\n{inbound} ({})\n", safe_cut(&it.server.kind, 20)));
        out.push_str(&match &it.link {
            Some(link) => safe(link),
            None => context.text("links.no_form").to_owned(),
        });
        out.push('\n');
    }
    for note in &shown.notes {
        out.push_str(&format!("\n{}\n", context.paint(Tone::Warn, &safe(note))));
    }
    let only = match shown.servers.as_slice() {
        [only] => only.link.as_ref(),
        _ => None,
    };
    if let Some(code) = shown.url.as_ref().or(only).filter(|_| draw).and_then(|text| qr::terminal(text)) {
        out.push_str(&format!("\n{code}\n"));
    }
    out
}
