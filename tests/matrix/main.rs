//! Every inbound type and transport of real sing-box releases at once, over IPv4 and IPv6, with the real agent:
//! each user has exactly the bytes that the relay saw. One case per socket shape, all with `--long`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

mod addresses;
mod carries;
mod hostile;
mod metered;
mod restarts;

use boxmeter_tests::agent::Agent;
use boxmeter_tests::singbox::Site;

/// An agent on the server's side, which runs.
fn metered(site: &Site) -> Agent {
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    agent
}
