//! `cargo xtask bench`: the figures of docs/benchmarks.md. Owns the table of aims; a figure without a
//! measurement says so and is never filled in by hand.

use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {
    /// Pairs per figure; the median of the pairs counts
    #[arg(long, default_value_t = 9)]
    pub pairs: u32,
}

/// One figure: what, and how much it may or must be.
struct Figure {
    what: &'static str,
    aim: &'static str,
}

const FIGURES: &[Figure] = &[
    Figure { what: "Σ users + unattributed − watched", aim: "0 bytes" },
    Figure { what: "payload against the relay's truth", aim: "0 bytes" },
    Figure { what: "cost per TCP packet against two plain counters", aim: "≤ 1.6 ×" },
    Figure { what: "cost per UDP packet against two plain counters, one peer", aim: "≤ 2 ×" },
    Figure { what: "CPU in the programs against sing-box, bulk trojan", aim: "≤ 0.5 %" },
    Figure { what: "CPU in the programs against sing-box, hysteria2", aim: "≤ 1 %" },
    Figure { what: "throughput with the agent against without", aim: "≥ 0.98" },
    Figure { what: "owner known after the report, 1,000 connections/s, p99", aim: "≤ 10 ms" },
    Figure { what: "16,000 short connections in 12 s, owned", aim: "≥ 99.9 %" },
    Figure { what: "tick with 10,000 users and 100,000 flows", aim: "≤ 50 ms CPU" },
    Figure { what: "agent at 1 s ticks", aim: "≤ 2 % of a core" },
    Figure { what: "resident memory, 10,000 users", aim: "≤ 40 MiB" },
    Figure { what: "resident memory, 100 users", aim: "≤ 20 MiB" },
];

pub fn run(args: &Args) -> Result<()> {
    println!("{:<60} {:<18} measured ({} pairs)", "figure", "aim", args.pairs);
    for figure in FIGURES {
        println!("{:<60} {:<18} not measured yet", figure.what, figure.aim);
    }
    Ok(())
}
