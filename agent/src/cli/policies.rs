//! `boxmeter policies`: the plans.

use boxmeter_web::{
    api::types::{NewPolicy, Overrides, Policy, PolicyChange},
    backend::{ApiError, Backend},
};
use clap::{Args, Subcommand};

use super::{
    ask::confirmed,
    context::Context,
    failure::Failure,
    format::{Tone, bytes, rate, safe_cut},
    table::{Cell, Table, pairs},
    terms::{self, TermsArgs},
};

#[derive(Debug, Args)]
pub struct PoliciesArgs {
    #[command(subcommand)]
    verb: PoliciesVerb,
}

#[derive(Debug, Subcommand)]
enum PoliciesVerb {
    /// All policies, with what they allow.
    List,
    /// One policy.
    Show {
        /// The policy's name.
        name: String,
    },
    /// A new policy: no limits but those that are given.
    Add {
        /// The new policy's name.
        name: String,
        #[command(flatten)]
        terms: TermsArgs,
    },
    /// Change a policy, and with it every user that has no own value.
    Set {
        /// The policy's name.
        name: String,
        #[command(flatten)]
        terms: TermsArgs,
        /// Only if the policy is still at this revision, as `policies show --json` has it.
        #[arg(long, value_name = "REV")]
        if_rev: Option<u64>,
    },
    /// Remove a policy that nobody has.
    Delete {
        /// The policy's name.
        name: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Only if the policy is still at this revision, as `policies show --json` has it.
        #[arg(long, value_name = "REV")]
        if_rev: Option<u64>,
    },
}

pub async fn run(context: &Context, args: PoliciesArgs) -> Result<(), Failure> {
    match args.verb {
        PoliciesVerb::List => {
            let list = context.client()?.policies_all().await?;
            if context.json {
                return context.print_json(&list);
            }
            context.print(&render_list(context, &list.policies))
        }
        PoliciesVerb::Show { name } => {
            let shown = context.client()?.policy(&name).await?;
            if context.json {
                return context.print_json(&shown);
            }
            context.print(&render_one(context, &shown.policy))
        }
        PoliciesVerb::Add { name, terms } => add(context, name, terms).await,
        PoliciesVerb::Set { name, terms, if_rev } => set(context, &name, terms, if_rev).await,
        PoliciesVerb::Delete { name, yes, if_rev } => delete(context, &name, yes, if_rev).await,
    }
}

async fn add(context: &Context, name: String, terms: TermsArgs) -> Result<(), Failure> {
    let new = NewPolicy { name, terms: terms.read_for_policy()? };
    new.check()?;
    let added = context.client()?.add_policy(context.envelope(None), new).await?;
    if context.json {
        return context.print_json(&added);
    }
    context.print(&done(context, "policies.added", &added.policy))
}

async fn set(context: &Context, name: &str, terms: TermsArgs, if_rev: Option<u64>) -> Result<(), Failure> {
    let change = PolicyChange { terms: terms.read_for_policy()? };
    if change.terms.is_empty() {
        return Err(ApiError::bad_request(context.text("policies.nothing_to_set")).into());
    }
    let changed = context.client()?.change_policy(context.envelope(if_rev), name, change).await?;
    if context.json {
        return context.print_json(&changed);
    }
    let key = if changed.changed { "policies.changed" } else { "policies.unchanged" };
    context.print(&done(context, key, &changed.policy))
}

async fn delete(context: &Context, name: &str, yes: bool, if_rev: Option<u64>) -> Result<(), Failure> {
    let client = context.client()?;
    let shown = safe_cut(name, 60);
    if !yes {
        client.policy(name).await?;
        let question = context.fill("policies.ask_delete", &[("name", &shown)]);
        if !confirmed(context, &question, context.text("ask.need_yes"))? {
            return context.print(context.text("ask.kept"));
        }
    }
    let deleted = client.delete_policy(context.envelope(if_rev), name).await?;
    if context.json {
        return context.print_json(&deleted);
    }
    context.print(&context.paint(Tone::Good, &context.fill("policies.deleted", &[("name", &shown)])))
}

fn done(context: &Context, key: &str, policy: &Policy) -> String {
    let values = [("name", &*safe_cut(&policy.name, 60)), ("users", &policy.users.to_string())];
    let text = context.paint(Tone::Good, &context.fill(key, &values));
    format!("{text}\n\n{}", render_one(context, policy))
}

pub fn render_list(context: &Context, policies: &[Policy]) -> String {
    let mut table = Table::new(context)
        .words("col.policy", 0)
        .numbers("col.quota", 0)
        .words("col.period_length", 2)
        .numbers("col.up_rate", 1)
        .numbers("col.down_rate", 1)
        .numbers("col.addresses", 3)
        .numbers("col.flows", 4)
        .words("col.over_quota", 5)
        .numbers("col.users", 0);
    let none = || "–".to_owned();
    let count = |value: Option<u32>| value.map_or_else(none, |it| it.to_string());
    for it in policies {
        let terms = &it.terms;
        table.row(vec![
            Cell::name(&it.name),
            Cell::new(terms.quota_bytes.map_or_else(none, bytes)),
            Cell::new(terms::period_text(context, terms)),
            Cell::new(terms.speed_up.map_or_else(none, rate)),
            Cell::new(terms.speed_down.map_or_else(none, rate)),
            Cell::new(count(terms.max_addresses)),
            Cell::new(count(terms.max_flows)),
            Cell::new(terms::ladder(context, &terms.over_quota)),
            Cell::new(it.users.to_string()),
        ]);
    }
    table.render()
}

pub fn render_one(context: &Context, policy: &Policy) -> String {
    let name = context.paint(Tone::Bold, &safe_cut(&policy.name, 200));
    let mut lines: Vec<(&str, String)> = terms::lines(context, &policy.terms, &Overrides::default())
        .into_iter()
        .map(|(key, value)| (context.text(key), value))
        .collect();
    lines.push((context.text("policies.users"), policy.users.to_string()));
    format!("{name}\n{}", pairs(&lines))
}
