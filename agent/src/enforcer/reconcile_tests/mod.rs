//! Plans on configurations as people write them, carried out in memory.

mod any_order;
mod bench;
mod new_users;
mod services;
mod single;

use std::sync::Arc;

use super::{
    reconcile::{Plan, Want, Wanted, plan},
    users_edit::{Brought, Parked},
};
use crate::singbox::{
    files::{self, FileText},
    splice::{self, Splice},
};

/// The files and the ledger.
#[derive(Clone)]
struct World {
    files: Vec<FileText>,
    parked: Vec<Parked>,
}

fn hash(text: &str) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(text.as_bytes()).into()
}

fn file(name: &str, text: &str) -> FileText {
    FileText {
        service: crate::service::Service::singbox(),
        path: Arc::new(name.into()),
        text: text.to_owned(),
        sha256: hash(text),
    }
}

fn wanted(users: &[(&str, Want)]) -> Wanted {
    users.iter().map(|(name, want)| ((*name).to_owned(), want.clone())).collect()
}

fn all(names: &[&str], want: &Want) -> Wanted {
    names.iter().map(|name| ((*name).to_owned(), want.clone())).collect()
}

fn new(inbounds: Option<&[&str]>) -> Want {
    let inbounds = inbounds.map(|tags| tags.iter().map(|tag| (*tag).to_owned()).collect());
    Want::New { inbounds, brought: Brought::default() }
}

impl World {
    fn new(texts: &[(&str, &str)]) -> World {
        World { files: texts.iter().map(|(name, text)| file(name, text)).collect(), parked: Vec::new() }
    }

    fn one(text: &str) -> World {
        World::new(&[("a.json", text)])
    }

    fn text(&self) -> &str {
        &self.files[0].text
    }

    fn set(&mut self, at: usize, text: &str) {
        self.files[at] = file(&self.files[at].path.display().to_string(), text);
    }

    fn plan(&self, wanted: &Wanted) -> Plan {
        plan(&self.files, &self.parked, wanted, &[]).unwrap()
    }

    /// The ledger's part before the files are written. As JSON and back, as the ledger keeps it.
    fn park(&mut self, plan: &Plan) {
        let json = serde_json::to_string(&plan.park).unwrap();
        for (record, plan) in serde_json::from_str::<Vec<Parked>>(&json).unwrap().into_iter().zip(&plan.park)
        {
            self.parked.retain(|old| old.key != record.key);
            self.parked.push(Parked { left: plan.left, ..record });
        }
        for record in self.parked.iter_mut().filter(|record| plan.unpark.contains(&record.key)) {
            record.left = false;
        }
    }

    fn write(&mut self, plan: &Plan) {
        self.write_some(plan, usize::MAX);
    }

    /// Only the first `most` files.
    fn write_some(&mut self, plan: &Plan, most: usize) {
        for edit in plan.edits.iter().take(most) {
            let at = self.files.iter().position(|file| *file.path == edit.path).unwrap();
            assert_eq!(self.files[at].sha256, edit.expected);
            self.set(at, &edit.content);
        }
    }

    /// The ledger's part after the files were written.
    fn note(&mut self, plan: &Plan) {
        self.parked.retain(|record| !plan.unpark.contains(&record.key));
        for record in
            self.parked.iter_mut().filter(|record| plan.park.iter().any(|new| new.key == record.key))
        {
            record.left = true;
        }
    }

    /// Carries a plan out; planned again it is empty.
    fn reach(&mut self, wanted: &Wanted) -> Plan {
        let (done, rest) = (self.plan(wanted), self.residue(wanted));
        self.park(&done);
        self.write(&done);
        self.note(&done);
        self.parked.sort_by(|a, b| a.key.cmp(&b.key));
        let mut after = done.parked_after.clone();
        after.sort_by(|a, b| a.key.cmp(&b.key));
        for (after, now) in after.iter_mut().zip(&self.parked) {
            after.left = now.left;
        }
        assert!(after == self.parked, "the plan says what the ledger has");
        assert_eq!(self.residue(wanted), rest, "all else stays");
        let again = self.plan(wanted);
        assert!(again.is_empty(), "again: {again:?}\n{}", self.text());
        done
    }

    /// Everything but these users' entries, boxmeter's own ones, commas and blanks.
    fn residue(&self, without: &Wanted) -> String {
        let config = files::parse(&self.files).unwrap();
        let mut text = String::new();
        for file in &self.files {
            let users = config.inbounds.iter().flat_map(|inbound| &inbound.users);
            let goes = users
                .filter(|user| user.file == *file.path)
                .filter(|user| user.is_locked() || without.contains_key(&*user.name));
            let splices: Vec<Splice> =
                goes.map(|user| Splice { range: user.range.clone(), with: String::new() }).collect();
            text.push_str(&splice::apply(&file.text, &splices));
        }
        text.retain(|c| !c.is_whitespace() && c != ',');
        text
    }

    /// Names of the users of an inbound.
    fn names(&self, inbound: &str) -> Vec<String> {
        let config = files::parse(&self.files).unwrap();
        config.inbound(inbound).unwrap().users.iter().map(|user| user.name.to_string()).collect()
    }
}
