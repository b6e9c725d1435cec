//! `boxmeter detach`: removes the kernel programs and maps, and what boxmeter added to sing-box's files,
//! after a yes; puts users back who are out only after another.

use clap::Args;
use serde_json::json;

use super::{
    ask::confirmed,
    context::Context,
    failure::Failure,
    format::safe,
    local::{self, Leave, Leaving, Left},
};

#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Do not ask; also put back users who are out of sing-box's configuration.
    #[arg(long)]
    pub yes: bool,
    /// Leave users out of sing-box's configuration who are out.
    #[arg(long)]
    pub leave_out: bool,
    /// Remove only the programs and counters in the kernel, and leave sing-box's files as they are: before another
    /// version of boxmeter whose counters have another shape.
    #[arg(long, conflicts_with = "leave_out")]
    pub programs_only: bool,
    /// Only say what would stop holding, and who is out.
    #[arg(long, conflicts_with_all = ["yes", "leave_out", "programs_only"])]
    pub dry_run: bool,
}

pub fn run(context: &Context, args: &DetachArgs) -> Result<(), Failure> {
    let leaving = local::leaving(context.config.as_deref())?;
    if args.dry_run {
        return match context.json {
            true => context.print_json(&would(&leaving)),
            false => context.print(&stops(context, &leaving)),
        };
    }
    let mut put_back = !args.leave_out && !args.programs_only && !leaving.out.is_empty();
    if !args.yes {
        let need_yes = context.text("detach.need_yes");
        let question = format!("{}\n{}", stops(context, &leaving), context.text("detach.ask"));
        if !confirmed(context, &question, need_yes)? {
            return context.print(context.text("ask.kept"));
        }
        put_back = put_back && confirmed(context, context.text("detach.ask_put_back"), need_yes)?;
    }
    let leave = match (args.programs_only, put_back) {
        (true, _) => Leave::Files,
        (false, true) => Leave::Nothing,
        (false, false) => Leave::Out,
    };
    let (left, ledger) = local::detach(context.config.as_deref(), leave)?;
    match context.json {
        true => context.print_json(&answer(&leaving, &left))?,
        false => context.print(&render(context, args.yes.then_some(&leaving), &left, &ledger))?,
    }
    let (key, reason) = match (left.trouble, left.unfinished.join("; ")) {
        (Some(reason), _) => ("detach.trouble", reason),
        (None, rest) if rest.is_empty() => return Ok(()),
        (None, rest) => ("detach.unfinished", rest),
    };
    Err(anyhow::anyhow!(context.fill(key, &[("reason", &reason)])).into())
}

fn names(names: &[String]) -> String {
    names.iter().map(|name| safe(name)).collect::<Vec<_>>().join(", ")
}

/// What stops holding, and who is out.
fn stops(context: &Context, leaving: &Leaving) -> String {
    let (limits, users) = (leaving.limits.to_string(), leaving.limited.to_string());
    let mut text = context.fill("detach.limits", &[("limits", &limits), ("users", &users)]);
    if !leaving.out.is_empty() {
        let count = leaving.out.len().to_string();
        let out = [("count", count.as_str()), ("names", &names(&leaving.out))];
        text = format!("{text}\n{}", context.fill("detach.out", &out));
    }
    text
}

fn would(leaving: &Leaving) -> serde_json::Value {
    json!({
        "schema": 1,
        "attached": leaving.attached,
        "ledger": leaving.ledger,
        "limits": leaving.limits,
        "limited_users": leaving.limited,
        "out": leaving.out,
    })
}

fn answer(leaving: &Leaving, left: &Left) -> serde_json::Value {
    json!({
        "schema": 1,
        "detached": true,
        "limits": leaving.limits,
        "limited_users": leaving.limited,
        "put_back": left.put_back,
        "still_out": left.still_out,
        "locked_entries_removed": left.locked_removed,
        "locked_entries_left": left.locked_left,
        "api_removed": left.api_removed,
        "changed_by_hand": left.kept,
        "reloaded": left.reloaded,
        "trouble": left.trouble,
        "unfinished": left.unfinished,
    })
}

/// What was done. `leaving` where it was not shown before.
pub fn render(context: &Context, leaving: Option<&Leaving>, left: &Left, ledger: &str) -> String {
    let mut lines: Vec<String> = leaving.map(|leaving| stops(context, leaving)).into_iter().collect();
    lines.push(context.fill("detach.done", &[("ledger", ledger)]));
    if !left.put_back.is_empty() {
        lines.push(context.fill("detach.put_back", &[("names", &names(&left.put_back))]));
    }
    if !left.still_out.is_empty() {
        lines.push(context.fill("detach.still_out", &[("names", &names(&left.still_out))]));
    }
    if left.locked_left > 0 {
        lines.push(context.text("detach.locked_left").to_owned());
    }
    if left.api_removed {
        lines.push(context.text("detach.api_removed").to_owned());
    }
    lines.extend(
        left.kept
            .iter()
            .map(|file| context.fill("detach.kept", &[("file", &safe(&file.display().to_string()))])),
    );
    if left.reloaded {
        lines.push(context.text("detach.reloaded").to_owned());
    }
    lines.join("\n")
}
