//! Whom nginx refuses: those who may not connect, and those who were deleted; and how that goes.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    super::{agent::Agent, refusals, tallies},
    REFUSES, is_living,
};
use crate::{core::event::UserId, ledger::Gone};

/// Of whom it depends whom one nginx refuses.
struct Names<'a> {
    /// Users who may connect, and who may not.
    may: &'a BTreeSet<&'a str>,
    out: &'a BTreeSet<&'a str>,
    gone: &'a Gone,
    /// Deleted, and known by name: by the ledger, or because nginx counts them.
    deleted: BTreeSet<&'a str>,
    /// Whom its file refuses.
    in_file: &'a BTreeSet<String>,
}

impl Names<'_> {
    /// Of one who was purged the name may be in the file only: he stays there, however often nginx begins to count
    /// anew, until somebody makes a user of that name.
    fn refused(&self, may_have: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let in_file = self.in_file.iter().map(|name| &**name).filter(|name| self.gone.has(name));
        let all = self.out.iter().chain(&self.deleted).copied().chain(in_file);
        all.filter(|name| may_have(name) && !self.may.contains(name)).map(str::to_owned).collect()
    }
}

impl Agent {
    pub(super) fn refusal_news(&mut self, news: refusals::News) {
        match news {
            refusals::News::Follows { service, refused } => {
                let data = json!({"service": &*service, "refused": refused});
                self.event("service_refuses", None, data);
            }
            refusals::News::LeftOut { service, names } => {
                let shown: Vec<String> = names.iter().map(|name| name.chars().take(64).collect()).collect();
                let data = json!({"service": &*service, "severity": "warning", "names": shown,
                                  "message": "these names cannot be written into nginx's file"});
                self.event("service_name_left_out", None, data);
            }
            refusals::News::Failed { service, reason } => {
                let data = json!({"service": &*service, "severity": "error", "message": &*reason});
                self.event("service_refuse_failed", None, data);
                let part = self.reports.trouble(REFUSES, &service, Some(reason));
                self.told(vec![part], vec![]);
            }
            refusals::News::Waits { service, reason } => {
                let part = self.reports.trouble(REFUSES, &service, Some(reason));
                self.told(vec![part], vec![]);
            }
            refusals::News::Mended { service } => {
                let part = self.reports.trouble(REFUSES, &service, None);
                self.told(vec![part], vec![]);
            }
        }
    }

    /// Tells each nginx.
    pub(in super::super) fn tell_refused(&self, out: &BTreeSet<UserId>) {
        if !self.users_known {
            return;
        }
        let Some(gone) = &self.reports.gone else { return };
        let living = || self.directory.users.values().filter(|user| is_living(user));
        let (out, may): (Vec<_>, Vec<_>) = living().partition(|user| out.contains(&user.id));
        let out: BTreeSet<&str> = out.into_iter().map(|user| &*user.name).collect();
        let may: BTreeSet<&str> = may.into_iter().map(|user| &*user.name).collect();
        for one in self.reports.all.iter().filter(|one| one.is_nginx()) {
            let known = gone.by_tag.get(&tallies::tag(&one.name)).into_iter().flatten();
            let counted = self.commits.tallies.gone(&one.name).into_iter().flatten();
            let told = self.reports.refusals.told(&one.name);
            let names = Names {
                may: &may,
                out: &out,
                gone,
                deleted: known.chain(counted).map(|name| &**name).collect(),
                in_file: told.as_ref().unwrap_or(&one.refused_before),
            };
            self.reports.refusals.set(&one.name, &names.refused(|name| one.may_have(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn whoever_is_purged_stays_in_the_file_whatever_nginx_counts() {
        let mut gone = Gone::default();
        gone.add(&"purged".into(), []);
        gone.add(&"bob".into(), []);
        let (out, may) = (BTreeSet::from(["carol"]), BTreeSet::from(["dave"]));
        let mut in_file = names(&["purged", "carol", "dave", "somebody"]);
        // nginx has begun to count anew: nobody is counted by that name.
        for deleted in [BTreeSet::from(["bob"]), BTreeSet::new()] {
            let now = Names { may: &may, out: &out, gone: &gone, deleted, in_file: &in_file };
            let refused = now.refused(|_| true);
            assert_eq!(refused, names(&["purged", "bob", "carol"]));
            assert_eq!(now.refused(|name| name != "purged"), names(&["bob", "carol"]));
            in_file = refused;
        }
        // Somebody is made of it.
        gone.remove("purged");
        let may = BTreeSet::from(["purged"]);
        let now = Names { may: &may, out: &out, gone: &gone, deleted: BTreeSet::new(), in_file: &in_file };
        assert_eq!(now.refused(|_| true), names(&["bob", "carol"]));
    }
}
