//! `cargo xtask bench`: measures beside the plain thing in the same run and writes docs/benchmarks.md and its
//! Chinese twin. Owns the table of aims; a figure without a measurement says so and is never filled in by hand.

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    bench_lib, paths, setup,
    shell::{cargo, is_root, output, succeed},
};

#[derive(clap::Args)]
pub struct Args {
    /// Only benchmarks whose name contains this; the pages stay as they are
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
}

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
    Aim("edit of a configuration with 10,000 users", "编辑含 10,000 用户的配置", "≤ 100 ms"),
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
    Aim("today's work: from the last byte until", "同一任务：最后一个字节到客户端得知断开", ""),
    Aim("today's work: connections of the other user", "同一任务：另一用户断开的连接", "0"),
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
    ensure!(is_root(), "benchmarks load kernel programs: run as root");
    setup::without_browser()?;
    succeed(cargo().args(["build", "--release", "--locked", "-p", "boxmeter"]))?;
    let name = args.only.as_deref().unwrap_or("bench_");
    let mut text = String::new();
    for target in ["kernel", "flow", "gate", "panel"] {
        text += &measure(target, name)?;
    }
    text += &bench_lib::figures(name)?;
    let measured: Vec<Measured> = text.lines().filter_map(parse).collect();
    let table = table(&measured);
    print!("{table}");
    if args.only.is_none() {
        write("benchmarks.md", &format!("{HEAD}{table}{NOTES}"))?;
        write("benchmarks.zh-CN.md", &format!("{HEAD_ZH}{}{NOTES_ZH}", table_zh(&measured)))?;
    }
    Ok(())
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

fn write(name: &str, text: &str) -> Result<()> {
    let page = paths::root().join("docs").join(name);
    fs::write(&page, text).with_context(|| page.display().to_string())
}

const HEAD: &str = "# Benchmarks\n\nWritten by `cargo xtask bench`: medians of runs side by side on one machine, real sing-box 1.14.4 with a \
real client. A figure without a measurement says so. [中文](benchmarks.zh-CN.md)\n\n";

const HEAD_ZH: &str = "# 性能测量\n\n由 `cargo xtask bench` 写成：在同一台机器上交替运行取中位数，使用真实的 sing-box 1.14.4 与真实客户端。\
没有测量的项目会注明。测量方法见[英文页](benchmarks.md)。\n\n";

/// What the aims that are missed are made of.
const NOTES: &str = "
## Where an aim is missed

* **Cost per packet.** A packet of a known user takes the lookup of its socket's storage and five atomic additions: \
what was watched and what the account has, payload and wire, and the counter that the quota is compared with. The two \
plain counters beside it are two additions. Watched bytes are counted apart from accounts so that `boxmeter audit` \
compares two sums and not one with itself.
* **CPU of the programs beside sing-box's.** The kernel's clock around each run is in the figure: an empty program, \
timed in the same way, shows 65 to 80 ns a run, which at some 80,000 runs per GB is 0.5 % of what sing-box takes for \
trojan. That is the whole aim; the programs themselves add about as much again.
* **Throughput without GSO.** Every segment passes the hooks of three hops on this one machine. Programs that do \
nothing cost most of it; the row says how the agent compares with those. To have only sing-box's own packets pass the \
programs, name its control group: `[kernel] cgroup`.
* **Memory with 10,000 users and 100,000 connections.** The agent's own memory grows by 84 MiB from 100 users \
and 500 connections; how it divides was not measured.
";

const NOTES_ZH: &str = "
## 未达到的目标

* **每个包的开销**：已知用户的一个包需要一次套接字存储查找和五次原子加法（监听总量与账户各有净荷和线路，再加上与额度比较的计数器）；\
旁边的两个普通计数器只有两次加法。监听总量与账户分开计数，`boxmeter audit` 才能核对两个独立的总和。
* **内核程序 CPU 占 sing-box 的比例**：数字里包含内核自己的计时。空程序用同样方法测得每次 65–80 纳秒，按每 GB 约 8 万次运行，已占 trojan \
开销的 0.5 %，即整个目标；程序本身大约再加同样多。
* **关闭 GSO 的吞吐量**：每个分段要在同一台机器上经过三跳的钩子，什么都不做的程序已占去大部分，表中列出了与其相比的比值。若只想让 \
sing-box 自己的包经过程序，请用 `[kernel] cgroup` 指定它的控制组。
* **10,000 用户、100,000 连接的内存**：从 100 用户、500 连接起，agent 自身的内存增加 84 MiB；具体构成尚未测量。
";

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
    let mut text = format!("{}\n\n| figure | aim | measured | how |\n|---|---|---|---|\n", machine());
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
    let mut text = format!("{}\n\n| 项目 | 目标 | 测得 |\n|---|---|---|\n", machine());
    for m in measured {
        if let Some(Aim(name, zh, aim)) = aim(m.name) {
            let rest = plain(m.name).split_off(plain(name).len());
            let _ = writeln!(text, "| {zh}{rest} | {aim} | {} |", m.value);
        }
    }
    for Aim(_, zh, aim) in missing(measured) {
        let _ = writeln!(text, "| {zh} | {aim} | 尚未测量 |");
    }
    text
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
}
