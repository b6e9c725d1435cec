//! s
use super::*;
#[test]
fn dbg() {
    let mut w = World::one(r#"{"inbounds":[{"type":"trojan","tag":"in0","users":[{"name":"u0","password":"s"}]}]}"#);
    w.reach(&all(&["u0"], &Want::Out));
    println!("{}", w.text());
    let t = w.text().replace("}]}]", "},\n{\"name\":\"h1\",\"password\":\"x\"}]}]");
    w.set(0, &t);
    println!("{}", w.text());
    w.reach(&all(&[], &Want::Out));
    println!("{}", w.text());
    w.reach(&all(&["u0"], &Want::In));
    println!("{}", w.text());
}
