//! What stands before and behind the tables of docs/benchmarks.md, in both languages.

pub const HEAD: &str = "# Benchmarks\n\nWritten by `cargo xtask bench`: medians of runs side by side on one machine, real sing-box 1.14.4 with a \
real client. A figure without a measurement says so. [中文](benchmarks.zh-CN.md)\n\n";

pub const HEAD_ZH: &str = "# 性能测量\n\n由 `cargo xtask bench` 写成：在同一台机器上交替运行取中位数，使用真实的 sing-box 1.14.4 与真实客户端。\
没有测量的项目会注明。测量方法见[英文页](benchmarks.md)。\n\n";

/// What the aims that are missed are made of.
pub const NOTES: &str = "
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
* **A tick with 10,000 users and 100,000 flows.** It is within 50 ms, and at one a second it is 2.6 to 3.3 % of a core, \
not 2 %: most of it is reading the kernel's counters and the walk over UDP peers.
* **Memory with 100 users.** Some 19 of the 28 MiB are the program's own text, which the kernel can drop and read again.
* **A restart with 10,000 users.** More than half of that figure was the kernel's verifier. Since then a restart takes \
the same programs as they are, which was not measured anew; they go on counting and cutting meanwhile.
* **Edit of a configuration with 10,000 users.** What is planned takes half of the aim. The rest is `sing-box check` on \
the new text, which the row beside it has alone, and files that are written through to the disk before anything is \
replaced: the texts in force, what is noted about them, the new one.
* **Connections that are opened beyond a quota.** The kernel cuts a connection when it knows whose it is, some \
milliseconds after it was opened; at the speed of one machine's own loopback that is a megabyte each.

## How today's ways do the same

\"Today's work\" above is one task: two users on trojan over TLS, alice pulls at full speed, bob reads 20 MB/s, alice's \
quota is 50 MB. The other ways were measured with the same task on the same kind of machine in November 2026, medians \
(least–most); the delay is what a method fixes, and what passes beyond the quota is about rate × delay.

| way | from the quota to the cut | passed beyond the quota | alice's open connection | bob's connection |
|---|---|---|---|---|
| V2Ray, StatsService every 5 s, user removed by the API | 2.4 s (0.3–4.2) | 426 MB (61–804), then 1–9.5 GB more | **never ends** | lives |
| the same every 10 s | 4.8 s (0.7–8.8) | 1,150 MB (107–2,741), then on | **never ends** | lives |
| V2Ray every 10 s, then a restart | 4.2 s (0.8–8.6) | 842 MB (234–1,186) | ends | **ends** (5 of 5) |
| sing-box every 10 s, users rewritten, SIGHUP | 5.0 s (1–9) | 2,033 MB (697–6,800) | ends | **ends** (9 of 9) |
| sing-box every 10 s, stopped and started | 5.0 s (3–7) | 3,784 MB (2,423–4,922) | ends | **ends** (3 of 3) |
| nftables quota of an address | none | 0 (bytes of an address, not of a user) | stalls | lives |
| boxmeter | in the same packet | the row \"passed beyond a quota\" | ends | lives |
";

pub const NOTES_ZH: &str = "
## 未达到的目标

* **每个包的开销**：已知用户的一个包需要一次套接字存储查找和五次原子加法（监听总量与账户各有净荷和线路，再加上与额度比较的计数器）；\
旁边的两个普通计数器只有两次加法。监听总量与账户分开计数，`boxmeter audit` 才能核对两个独立的总和。
* **内核程序 CPU 占 sing-box 的比例**：数字里包含内核自己的计时。空程序用同样方法测得每次 65–80 纳秒，按每 GB 约 8 万次运行，已占 trojan \
开销的 0.5 %，即整个目标；程序本身大约再加同样多。
* **关闭 GSO 的吞吐量**：每个分段要在同一台机器上经过三跳的钩子，什么都不做的程序已占去大部分，表中列出了与其相比的比值。若只想让 \
sing-box 自己的包经过程序，请用 `[kernel] cgroup` 指定它的控制组。
* **10,000 用户、100,000 连接的内存**：从 100 用户、500 连接起，agent 自身的内存增加 84 MiB；具体构成尚未测量。
* **10,000 用户、100,000 流时的 tick**：在 50 ms 之内；每秒一次时占一个核的 2.6–3.3 %，未达到 2 %。大部分用于读取内核计数器和遍历 UDP 对端。
* **100 用户的内存**：28 MiB 中约 19 MiB 是程序自身的代码，内核可以随时丢弃并重新读取。
* **10,000 用户时的重启**：该数字的一半以上是内核校验器的时间。此后重启会直接沿用相同的程序，尚未重新测量；其间程序照常计数和切断。
* **编辑含 10,000 用户的配置**：规划只用了目标的一半；其余是对新文本运行 `sing-box check`（旁边一行单独列出），以及在替换之前把现行文本、\
相关记录和新文本写入磁盘。
* **超出额度后新打开的连接**：内核在知道连接属于谁之后才能切断，即打开后的几毫秒；在本机回环的速度下每个连接约 1 MB。

## 现有做法完成同一任务

上表的“同一任务”：trojan-TLS 上的两个用户，alice 全速下载，bob 以 20 MB/s 读取，alice 的额度为 50 MB。其他做法于 2026 年 11 月在同类机器上\
以同一任务测得，取中位数（最小–最大）；延迟由做法本身决定，超出额度的流量约等于速率 × 延迟。

| 做法 | 到达额度至切断 | 超出额度 | alice 已打开的连接 | bob 的连接 |
|---|---|---|---|---|
| V2Ray，每 5 秒查询 StatsService，经 API 移除用户 | 2.4 s（0.3–4.2） | 426 MB（61–804），此后再通过 1–9.5 GB | **不会断开** | 保持 |
| 同上，每 10 秒 | 4.8 s（0.7–8.8） | 1,150 MB（107–2,741），此后继续 | **不会断开** | 保持 |
| V2Ray，每 10 秒，随后重启 | 4.2 s（0.8–8.6） | 842 MB（234–1,186） | 断开 | **断开**（5/5） |
| sing-box，每 10 秒，改写 users 后 SIGHUP | 5.0 s（1–9） | 2,033 MB（697–6,800） | 断开 | **断开**（9/9） |
| sing-box，每 10 秒，停止后再启动 | 5.0 s（3–7） | 3,784 MB（2,423–4,922） | 断开 | **断开**（3/3） |
| 按地址的 nftables 配额 | 无 | 0（按地址而非用户计算） | 停滞 | 保持 |
| boxmeter | 同一个包 | 见“超出 50 MB 额度的字节” | 断开 | 保持 |
";
