//! The program `boxmeter`: see `boxmeter --help`.

fn main() {}
