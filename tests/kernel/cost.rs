use std::{io::{BufRead, BufReader, Write}, net::UdpSocket, process::{Command, Stdio}};
use boxmeter::core::event::Network;
use crate::{net::*, rig::Rig};
#[test]
#[ignore = "cost"]
fn cost() {
    in_new_namespace(|| {
        ip("link set lo mtu 1500 gso_max_segs 1");
        cost_in();
    });
}
fn cost_in() {
    let mut base = Command::new("python3").arg("/tmp/base.py").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(base.stdout.take().unwrap());
    let mut inp = base.stdin.take().unwrap();
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let mut read = || { inp.write_all(b"\n").unwrap(); let mut l = String::new(); out.read_line(&mut l).unwrap();
        let v: Vec<(u64,u64)> = l.trim().split(' ').map(|p| { let (a,b) = p.split_once('/').unwrap(); (a.parse().unwrap(), b.parse().unwrap()) }).collect(); [v[0], v[1]] };
    let mut rig = Rig::new();
    let _m = rig.kernel.measure().unwrap();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    client.set_nodelay(true).unwrap(); server.set_nodelay(true).unwrap();
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    let mut show = |name: &str, rig: &Rig, act: &mut dyn FnMut()| {
        for _ in 0..7 {
        let (b0, m0) = (read(), rig.kernel.run_time());
        act();
        let (m1, b1) = (rig.kernel.run_time(), read());
        let per = |a: (u64,u64), b: (u64,u64)| (b.0 - a.0) as f64 / (b.1 - a.1).max(1) as f64;
        println!("{name}: ingress {:.0} base {:.0}  egress {:.0} base {:.0}  n {}", per(m0[0], m1[0]), per(b0[0], b1[0]), per(m0[1], m1[1]), per(b0[1], b1[1]), m1[0].1 - m0[0].1);
        }
    };
    show("tcp bulk", &rig, &mut || exchange(&client, &server, 500_000_000, 500_000_000));
    show("tcp pingpong", &rig, &mut || for _ in 0..50_000 { send(&client, 100); receive(&server, 100); send(&server, 100); receive(&client, 100); });
    let (l2, _) = listen("127.0.0.1");
    let (c2, s2) = connect(&l2);
    c2.set_nodelay(true).unwrap(); s2.set_nodelay(true).unwrap();
    show("not watched", &rig, &mut || for _ in 0..50_000 { send(&c2, 100); receive(&s2, 100); send(&s2, 100); receive(&c2, 100); });
    let us = UdpSocket::bind("127.0.0.1:0").unwrap();
    let uin = rig.watch(Network::Udp, us.local_addr().unwrap().port());
    let uslot = rig.account(uin);
    let uc = UdpSocket::bind("127.0.0.1:0").unwrap(); uc.connect(us.local_addr().unwrap()).unwrap();
    uc.send(&[0; 10]).unwrap(); us.recv(&mut [0; 10]).unwrap();
    let f = rig.peer(uc.local_addr().unwrap().port()).unwrap(); rig.own(&f, uslot);
    let peer = uc.local_addr().unwrap();
    show("udp 1 peer (half not watched)", &rig, &mut || for _ in 0..50_000 { uc.send(&[0; 1000]).unwrap(); us.recv(&mut [0; 1000]).unwrap(); us.send_to(&[0; 1000], peer).unwrap(); uc.recv(&mut [0; 1000]).unwrap(); });
    drop(inp); base.wait().unwrap();
}
