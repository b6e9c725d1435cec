//! `cargo xtask bench`: measures beside the plain thing in the same run, keeps what was measured in
//! docs/benchmarks.tsv and writes docs/benchmarks.md and its Chinese twin from it. Owns the table of aims; a figure
//! without a measurement says so and is never filled in by hand.

mod notes;

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    bench::notes::{HEAD, HEAD_ZH, NOTES, NOTES_ZH},
    bench_lib, paths, setup,
    shell::{cargo, is_root, output, succeed},
};

#[derive(clap::Args)]
pub struct Args {
    /// Only benchmarks whose name contains this; the other rows of the pages stay as they are
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,

    /// Measures nothing: writes the pages anew from the figures kept
    #[arg(long, conflicts_with = "only")]
    pub pages: bool,
}

/// What was measured last, a line each, as benchmarks print it.
const FIGURES: &str = "benchmarks.tsv";

/// Its first line says on which machine.
const MACHINE: &str = "MACHINE";

/// An aim: the beginning of the measured figure's name, what it is in Chinese, the aim.
struct Aim(&'static str, &'static str, &'static str);

const AIMS: &[Aim] = &[
    Aim("cost per TCP packet", "每个 TCP 包的开销，与两个普通计数器相比", "≤ 1.6 ×"),
    Aim("cost per UDP packet", "每个 UDP 包的开销，与两个普通计数器相比", "≤ 2 ×"),
    Aim(
        "CPU in the programs against sing-box, bulk trojan",
        "内核程序 CPU 占 sing-box 的比例，trojan",
        "≤ 0.5 %",
    ),
    Aim(
        "CPU in the programs against sing-box, hysteria2",
        "内核程序 CPU 占 sing-box 的比例，hysteria2",
        "≤ 1 %",
    ),
    Aim("throughput with the agent against without, trojan", "有无 agent 的吞吐量之比，trojan", "≥ 0.98"),
    Aim("throughput with the agent against without, trojan without GSO", "同上，关闭 GSO", "≥ 0.98"),
    Aim(
        "owner known after the report, 1,000 connections/s, p99",
        "每秒 1,000 个新连接时得知所属用户的延迟，p99",
        "≤ 10 ms",
    ),
    Aim("16,000 short connections in 12 s, owned", "12 秒内 16,000 个短连接，已归属", "≥ 99.9 %"),
    Aim(
        "tick with 10,000 users and 100,000 flows",
        "10,000 用户、100,000 流时每个 tick",
        "≤ 50 ms CPU, ≤ 2 % of a core",
    ),
    Aim(
        "resident memory with 10,000 users and 100,000 flows",
        "10,000 用户、100,000 流时的常驻内存",
        "≤ 40 MiB",
    ),
    Aim("resident memory with 100 users", "100 用户时的常驻内存", "≤ 20 MiB"),
    Aim("bytes beyond the budget", "超出额度的字节", "one GSO packet (64 KiB; 512 KiB on loopback) per CPU"),
    Aim("speed: download", "限速：下载", "0.97–1.03, sent again < 0.1 %"),
    Aim("speed: upload", "限速：上传", "0.90–1.10"),
    Aim("speed: datagrams", "限速：UDP", "0.97–1.03"),
    Aim("plan of an edit, 10,000 users", "规划一次编辑，10,000 用户", ""),
    Aim(
        "edit of a configuration with 10,000 users, `users disable` to the changed file",
        "编辑含 10,000 用户的配置，从 `users disable` 到文件改变",
        "≤ 100 ms",
    ),
    Aim("`users disable` to its answer, 10,000 users", "`users disable` 到得到答复，10,000 用户", ""),
    Aim("`sing-box check` alone, 10,000 users", "仅 `sing-box check`，10,000 用户", ""),
    Aim("ledger of a year with 10,000 users", "10,000 用户一年的账本大小", ""),
    Aim("ledger of a year: one user's month by day", "一年的账本：查询一个用户一个月的每日用量", "≤ 10 ms"),
    Aim("ledger of a year: overview", "一年的账本：总览", "≤ 50 ms"),
    Aim("backup of a 1 GB ledger: longest tick meanwhile", "备份 1 GB 账本期间最慢的 tick", "≤ 2 s"),
    Aim("backup of a 1 GB ledger: time", "备份 1 GB 账本所需时间（含校验）", ""),
    Aim("a quota lowered on the command line", "命令行降低额度到最后一个字节", "one tick (1 s)"),
    Aim(
        "today's work: passed beyond a quota of 50 MB",
        "同一任务：超出 50 MB 额度的字节",
        "one packet per CPU",
    ),
    Aim(
        "passed beyond a quota of 50 MB, 64 connections",
        "64 个连接超出 50 MB 额度的字节",
        "one packet per CPU",
    ),
    Aim("today's work: from the last byte until", "同一任务：最后一个字节到客户端得知断开", ""),
    Aim(
        "today's work: connections of the other user that broke before the deferred reload",
        "同一任务：延后的重载之前另一用户断开的连接",
        "0",
    ),
    Aim("restart of the agent with 10,000 users", "10,000 用户时代理进程重启至就绪", "< 1 s"),
    Aim("users page with 10,000 users", "10,000 用户时的用户页", "≤ 100 ms"),
    Aim("users page, searched with 10,000 users", "10,000 用户时的用户页（搜索）", "≤ 100 ms"),
    Aim("overview with 10,000 users", "10,000 用户时的总览页", ""),
    Aim("50 live pages, CPU of the panel", "50 个实时页面时面板的 CPU", "≤ 2 % of a core"),
    Aim("resident memory of the panel", "面板的常驻内存", "≤ 30 MiB"),
];

/// The longest beginning that fits.
fn aim(figure: &str) -> Option<&'static Aim> {
    let figure = plain(figure);
    AIMS.iter().filter(|aim| figure.starts_with(&plain(aim.0))).max_by_key(|aim| aim.0.len())
}

/// Without commas in numbers, which some write and some do not.
fn plain(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(char::is_ascii_digit);
    let in_number = |at: usize| letters[at] == ',' && digit(at.checked_sub(1)) && digit(Some(at + 1));
    (0..letters.len()).filter(|&at| !in_number(at)).map(|at| letters[at]).collect()
}

/// A line `FIGURE<TAB>what<TAB>how much[<TAB>how it was measured]` of a benchmark.
struct Measured<'a> {
    name: &'a str,
    value: &'a str,
    how: &'a str,
}

pub fn run(args: &Args) -> Result<()> {
    let kept = fs::read_to_string(docs(FIGURES)).unwrap_or_default();
    let figures = if args.pages {
        merged(&kept, "")
    } else {
        let measured = measured(args)?;
        merged(if args.only.is_some() { &kept } else { "" }, &measured)
    };
    write(FIGURES, &(figures.join("\n") + "\n"))?;
    for (name, page) in pages(&figures) {
        write(name, &page)?;
    }
    Ok(())
}

/// What the benchmarks print; a table of it to read at once.
fn measured(args: &Args) -> Result<String> {
    ensure!(is_root(), "benchmarks load kernel programs: run as root");
    setup::without_browser()?;
    succeed(cargo().args(["build", "--release", "--locked", "-p", "boxmeter"]))?;
    let name = args.only.as_deref().unwrap_or("bench_");
    let mut text = format!("{MACHINE}\t{}\n", machine());
    for target in ["kernel", "flow", "gate", "panel"] {
        text += &measure(target, name)?;
    }
    text += &bench_lib::figures(name)?;
    print!("{}", table(&text.lines().filter_map(parse).collect::<Vec<_>>()));
    Ok(text)
}

/// The pages, by name, of the lines kept.
fn pages(figures: &[String]) -> [(&'static str, String); 2] {
    let machine = figures.iter().find_map(|line| line.strip_prefix(MACHINE)).unwrap_or_default().trim();
    let figures: Vec<Measured> = figures.iter().filter_map(|line| parse(line)).collect();
    [
        ("benchmarks.md", format!("{HEAD}{machine}\n\n{}{NOTES}", table(&figures))),
        ("benchmarks.zh-CN.md", format!("{HEAD_ZH}{machine}\n\n{}{NOTES_ZH}", table_zh(&figures))),
    ]
}

/// The lines kept, each replaced by the new one of the same name; names that are new behind them.
fn merged(kept: &str, measured: &str) -> Vec<String> {
    let machine = measured.lines().chain(kept.lines()).find(|line| line.starts_with(MACHINE));
    let mut lines: Vec<String> = machine.map(str::to_owned).into_iter().collect();
    for line in kept.lines().chain(measured.lines()) {
        let Some(new) = parse(line) else { continue };
        let text = format!("FIGURE\t{}\t{}\t{}", new.name, new.value, new.how);
        match lines.iter_mut().find(|old| parse(old).is_some_and(|old| old.name == new.name)) {
            Some(old) => *old = text,
            None => lines.push(text),
        }
    }
    lines
}

fn measure(target: &str, name: &str) -> Result<String> {
    let mut command = cargo();
    // The harness is in the way of the traffic: it is optimised as well.
    command
        .args(["test", "--release", "--locked", "-p", "boxmeter-tests", "--test", target, "--"])
        .args(["--ignored", "--nocapture", "--test-threads=1", name])
        .env("BOXMETER_BIN", paths::program(true))
        .env("BOXMETER_TOOLS", paths::tools());
    let output = command.stderr(Stdio::inherit()).output().context("the benchmarks do not start")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "a benchmark failed:\n{text}");
    Ok(text)
}

fn parse(line: &str) -> Option<Measured<'_>> {
    let mut fields = line.split_once("FIGURE\t")?.1.split('\t');
    Some(Measured { name: fields.next()?, value: fields.next()?, how: fields.next().unwrap_or_default() })
}

fn docs(name: &str) -> PathBuf {
    paths::root().join("docs").join(name)
}

fn write(name: &str, text: &str) -> Result<()> {
    let page = docs(name);
    fs::write(&page, text).with_context(|| page.display().to_string())
}

fn machine() -> String {
    let say = |program: &str, word: &str| output(Command::new(program).arg(word)).unwrap_or_default();
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    format!("Linux {}, {} cores, {model}", say("uname", "-r"), say("nproc", "--all"))
}

fn missing<'a>(measured: &'a [Measured<'a>]) -> impl Iterator<Item = &'static Aim> + 'a {
    AIMS.iter().filter(|one| !measured.iter().any(|m| aim(m.name).is_some_and(|a| a.0 == one.0)))
}

fn table(measured: &[Measured]) -> String {
    let mut text = "| figure | aim | measured | how |\n|---|---|---|---|\n".to_owned();
    for m in measured {
        let aim = aim(m.name).map_or("", |aim| aim.2);
        let _ = writeln!(text, "| {} | {aim} | {} | {} |", m.name, m.value, m.how);
    }
    for Aim(name, _, aim) in missing(measured) {
        let _ = writeln!(text, "| {name} | {aim} | not measured by this command yet | |");
    }
    text
}

fn table_zh(measured: &[Measured]) -> String {
    let mut text = "| 项目 | 目标 | 测得 |\n|---|---|---|\n".to_owned();
    for m in measured {
        if let Some(Aim(name, zh, aim)) = aim(m.name) {
            let rest = in_chinese(&plain(m.name).split_off(plain(name).len()));
            let _ = writeln!(text, "| {zh}{rest} | {aim} | {} |", m.value);
        }
    }
    for Aim(_, zh, aim) in missing(measured) {
        let _ = writeln!(text, "| {zh} | {aim} | 尚未测量 |");
    }
    text
}

/// What stands behind the name of an aim says in which case it was measured.
fn in_chinese(rest: &str) -> String {
    const WORDS: &[(&str, &str)] = &[
        (", against two plain counters", ""),
        (" against two plain counters", ""),
        (", download, one segment per packet", "，下载，每包一个分段"),
        (", upload, one segment per packet", "，上传，每包一个分段"),
        (", 100-byte ping-pong", "，100 字节往返"),
        (", 100000 peers at random", "，随机 100,000 个对端"),
        (", one peer", "，单个对端"),
        (", until the last byte", ""),
        (" the client sees the end", ""),
        (", until ready", ""),
        (" flows at full speed", " 条全速连接"),
        (" flows", " 条连接"),
        (" over 20 ms", "，往返 20 毫秒"),
        (" at twice the rate", "，以两倍速率发送"),
        (", busy", "，有流量"),
        (" and 500 条连接", "、500 条连接"),
        (" and 100000 条连接", "、100,000 条连接"),
        (", ", "，"),
    ];
    WORDS.iter().fold(rest.to_owned(), |rest, (english, chinese)| rest.replace(english, chinese))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What benchmarks print belongs to the aim that is meant, and no aim is without a figure for its name.
    #[test]
    fn figures_find_their_aims() {
        for (figure, wanted) in [
            ("cost per TCP packet, 100-byte ping-pong against two plain counters", "cost per TCP packet"),
            (
                "cost per UDP packet, 100,000 peers at random, against two plain counters",
                "cost per UDP packet",
            ),
            ("tick with 10000 users and 100000 flows, busy", "tick with 10,000 users and 100,000 flows"),
            (
                "resident memory with 10000 users and 100000 flows",
                "resident memory with 10,000 users and 100,000 flows",
            ),
            ("resident memory with 100 users and 500 flows", "resident memory with 100 users"),
            (
                "throughput with the agent against without, trojan",
                "throughput with the agent against without, trojan",
            ),
        ] {
            assert_eq!(aim(figure).map(|aim| aim.0), Some(wanted), "{figure}");
            let measured = [Measured { name: figure, value: "1", how: "" }];
            assert!(missing(&measured).all(|aim| aim.0 != wanted));
            assert!(table_zh(&measured).contains(aim(figure).unwrap().1));
        }
        assert!(aim("ns per run, TCP packet").is_none());
    }

    /// Nobody has changed a figure on a page by hand.
    #[test]
    fn the_pages_say_what_was_measured() {
        let kept = fs::read_to_string(docs(FIGURES)).unwrap();
        for (name, page) in pages(&merged(&kept, "")) {
            let says = fs::read_to_string(docs(name)).unwrap();
            assert!(says == page, "docs/{name} is not what docs/{FIGURES} says: cargo xtask bench --pages");
        }
    }

    #[test]
    fn a_new_figure_takes_the_place_of_the_old_one() {
        let kept = "MACHINE\told\nFIGURE\ta\t1\tso\nFIGURE\tb\t2\t\n";
        let measured = "MACHINE\tnew\ntest b ... FIGURE\tb\t3\ttwice\nFIGURE\tc\t4\n";
        assert_eq!(
            merged(kept, measured),
            ["MACHINE\tnew", "FIGURE\ta\t1\tso", "FIGURE\tb\t3\ttwice", "FIGURE\tc\t4\t"]
        );
    }
}
