//! nginx when boxmeter leaves: nobody would let in again whom its file refuses.

use std::collections::BTreeSet;

use super::{super::reports, Left};
use crate::{
    config::Config,
    enforcer::nginx::{Nginx, NginxError},
};

/// Every nginx that has a file, with its service's name.
fn all(config: &Config) -> impl Iterator<Item = (String, Nginx)> {
    let has_file = |service: &&crate::config::Service| {
        service.is_nginx() && !service.refuse.as_os_str().is_empty() && service.refuse.exists()
    };
    let services = config.services.iter().filter(has_file);
    services.map(|service| (service.identity().name.to_string(), reports::nginx_of(service, config)))
}

/// Whom the files refuse. One that is not boxmeter's refuses nobody on its behalf.
pub fn refused(config: &Config) -> BTreeSet<String> {
    all(config).flat_map(|(_, nginx)| nginx.refused().unwrap_or_default()).collect()
}

/// Has every nginx refuse nobody any more. The file stays, since nginx includes it.
pub fn give_back(config: &Config, left: &mut Left) {
    let mut back = BTreeSet::new();
    for (name, nginx) in all(config) {
        let before = match nginx.refused() {
            Ok(before) => before,
            // Nothing in it is boxmeter's.
            Err(NginxError::Foreign(_)) => continue,
            Err(error) => {
                left.unfinished.push(format!("{name}: {error}"));
                continue;
            }
        };
        match nginx.follow(&BTreeSet::new()) {
            Ok(_) => back.extend(before),
            Err(error) => {
                left.unfinished.push(format!("{name}: {error}"));
                left.still_out.extend(before);
            }
        }
    }
    left.put_back.extend(back.into_iter().filter(|name| !left.still_out.contains(name)));
    tidy(left);
}

/// Whoever is refused stays so.
pub fn leave_out(config: &Config, left: &mut Left) {
    left.still_out.extend(refused(config));
    tidy(left);
}

fn tidy(left: &mut Left) {
    for names in [&mut left.put_back, &mut left.still_out] {
        names.sort_unstable();
        names.dedup();
    }
    left.put_back.retain(|name| !left.still_out.contains(name));
}
