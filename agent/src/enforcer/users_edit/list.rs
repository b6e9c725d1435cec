//! One `users` array together with the entries that were taken out of it: the *full* list. The file
//! shows those that are in; which text shows follows from the full list alone, so that any order of
//! taking out and putting back ends where it began. Pure.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{
    entry::{self, Sort},
    gap::{self, Ends, Style},
    known::Known,
    parked::{Parked, ParkedKey},
};
use crate::singbox::{
    config::LOCKED_USER,
    files::FileText,
    splice::{self, Splice},
    tree::Node,
};

/// The text between two entries; several pieces where entries between were deleted while out.
type Gap<'a> = Vec<Cow<'a, str>>;

/// One entry of the full list.
pub struct Item<'a> {
    pub text: Cow<'a, str>,
    pub name: Cow<'a, str>,
    /// Shall it be in the file?
    pub here: bool,
    /// Was it in the file that was read?
    pub was_here: bool,
    credential: Option<String>,
    /// Its record, if it was out.
    record: Option<Parked>,
}

impl Item<'_> {
    /// What sing-box looks the user up by.
    pub fn credential(&self, kind: &Sort) -> Option<Cow<'_, str>> {
        match (&self.credential, self.was_here) {
            (Some(credential), _) => Some(Cow::Borrowed(credential)),
            (None, true) => None,
            (None, false) => entry::credential_of(kind, &self.text).map(Cow::Owned),
        }
    }
}

pub struct List<'a> {
    pub tag: String,
    pub kind: Sort,
    pub file: &'a FileText,
    /// Between the brackets.
    inside: Range<usize>,
    pub items: Vec<Item<'a>>,
    /// One more than items.
    gaps: Vec<Gap<'a>>,
    /// The locked entry that stands in the file for the first item while nobody is in.
    stand_in: Option<String>,
    was_empty: bool,
    /// Did the full list itself change, not only who of it is in?
    reshaped: bool,
    /// Entries whose place is not known exactly any more.
    pub loose: Vec<Parked>,
    /// Entries that somebody put back by hand.
    pub returned: Vec<Parked>,
    /// How new entries are written, once it was asked for: looking takes as long as the list.
    style: Option<Style>,
}

fn ends(at: usize, count: usize) -> Ends {
    Ends { opens: at == 0, closes: at == count }
}

fn shown<'g>(gaps: impl IntoIterator<Item = &'g [String]>, ends: Ends) -> String {
    let pieces: Vec<&str> = gaps.into_iter().flatten().map(String::as_str).collect();
    gap::join(&pieces, ends)
}

/// The text that shows where these neighbours are out.
fn shown_of(run: &[Parked], ends: Ends) -> String {
    let first = run.first().map(|parked| parked.before.as_slice());
    shown(first.into_iter().chain(run.iter().map(|parked| parked.after.as_slice())), ends)
}

/// Entries that are neighbours in the full list.
fn runs(parked: Vec<Parked>) -> Vec<Vec<Parked>> {
    let mut runs: Vec<Vec<Parked>> = Vec::new();
    for next in parked {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| last.is_before(&next)) => run.push(next),
            _ => runs.push(vec![next]),
        }
    }
    runs
}

fn pieces(texts: &[String]) -> Gap<'static> {
    texts.iter().map(|text| Cow::Owned(text.clone())).collect()
}

/// What the file shows.
struct Shown<'a> {
    /// Text and name.
    entries: Vec<(&'a str, Cow<'a, str>)>,
    credentials: Vec<Option<String>>,
    gaps: Vec<&'a str>,
}

impl<'a> Shown<'a> {
    fn read(file: &'a FileText, users: &Node, kind: &Sort) -> Self {
        let (mut entries, mut credentials, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = users.range.start + 1;
        for node in users.array().unwrap_or_default() {
            let name = node.get(kind.name_key()).and_then(Node::str).unwrap_or_default();
            entries.push((&file.text[node.range.clone()], Cow::Owned(name.to_owned())));
            credentials.push(entry::credential(kind, node));
            gaps.push(&file.text[at..node.range.start]);
            at = node.range.end;
        }
        gaps.push(&file.text[at..users.range.end - 1]);
        Shown { entries, credentials, gaps }
    }

    /// The neighbours' names at a gap.
    fn around(&self, gap: usize) -> (Option<&str>, Option<&str>) {
        let name = |at: usize| self.entries.get(at).map(|(_, name)| name.as_ref());
        (gap.checked_sub(1).and_then(name), name(gap))
    }

    fn is_only_locked(&self) -> bool {
        matches!(self.entries.as_slice(), [(_, name)] if name == LOCKED_USER)
    }

    /// The gap that hides exactly this run: nothing around it has changed.
    fn gap_of(
        &self,
        run: &[Parked],
        by_neighbours: &HashMap<(Option<&str>, Option<&str>), Vec<usize>>,
        likely: usize,
        taken: &HashSet<usize>,
    ) -> Option<usize> {
        let (first, last) = (run.first()?, run.last()?);
        let count = self.entries.len();
        let hides = |gap: &usize| !taken.contains(gap) && self.gaps[*gap] == shown_of(run, ends(*gap, count));
        let wanted = (first.previous.as_deref(), last.next.as_deref());
        let same = by_neighbours.get(&wanted).into_iter().flatten().copied().filter(|gap| hides(gap));
        if let Some(gap) = same.min_by_key(|gap| gap.abs_diff(likely)) {
            return Some(gap);
        }
        // One of the neighbours has another name now; but an end of the array is still one.
        let around = (likely <= count).then(|| self.around(likely))?;
        let alike = around.0 == wanted.0 || around.1 == wanted.1;
        let same_ends = around.0.is_none() == wanted.0.is_none() && around.1.is_none() == wanted.1.is_none();
        (alike && same_ends && hides(&likely)).then_some(likely)
    }
}

impl<'a> List<'a> {
    /// `unwritten`: was the file with this hash never written after the entry was parked? An entry in the file
    /// whose record says that it never left, or is on its way back, is one that is in.
    pub fn read(
        file: &'a FileText,
        tag: &str,
        kind: &Sort,
        users: &Node,
        parked: Vec<Parked>,
        unwritten: &dyn Fn(&str) -> bool,
    ) -> Self {
        let shown = Shown::read(file, users, kind);
        let mut list = List {
            tag: tag.to_owned(),
            kind: kind.clone(),
            file,
            inside: users.range.start + 1..users.range.end - 1,
            items: Vec::with_capacity(shown.entries.len() + parked.len()),
            gaps: Vec::with_capacity(shown.entries.len() + parked.len() + 1),
            stand_in: None,
            was_empty: shown.entries.is_empty(),
            reshaped: false,
            loose: Vec::new(),
            returned: Vec::new(),
            style: None,
        };
        let names: HashSet<&str> = match parked.is_empty() {
            true => HashSet::new(),
            false => shown.entries.iter().map(|(_, name)| name.as_ref()).collect(),
        };
        let mut out = Vec::new();
        for record in parked {
            if !names.contains(record.key.user.as_str()) {
                out.push(record);
            } else if record.returned || record.left && !unwritten(&record.from) {
                list.returned.push(record);
            }
        }
        out.sort_by_key(|record| record.index);
        list.fill(&shown, runs(out));
        list
    }

    fn fill(&mut self, shown: &Shown<'a>, mut runs: Vec<Vec<Parked>>) {
        let count = shown.entries.len();
        if let (true, [run, ..]) = (shown.is_only_locked(), runs.as_slice()) {
            let ends_match = run[0].previous.is_none() && run[run.len() - 1].next.is_none();
            let head = shown_of_head(run);
            let tail = self::shown(run.iter().map(|p| p.after.as_slice()), ends(1, 1));
            if ends_match && shown.gaps[0] == head && shown.gaps[1] == tail {
                self.stand_in = Some(shown.entries[0].0.to_owned());
                let run = runs.remove(0);
                self.loose = runs.into_iter().flatten().collect();
                self.push_run(run);
                return;
            }
        }
        let mut by_neighbours: HashMap<_, Vec<usize>> = HashMap::new();
        if !runs.is_empty() {
            for gap in 0..=count {
                by_neighbours.entry(shown.around(gap)).or_default().push(gap);
            }
        }
        let (mut taken, mut hidden) = (HashSet::new(), HashMap::new());
        let mut before = 0;
        for run in runs {
            let likely = run[0].index.saturating_sub(before);
            before += run.len();
            match shown.gap_of(&run, &by_neighbours, likely, &taken) {
                Some(gap) => {
                    taken.insert(gap);
                    hidden.insert(gap, run);
                }
                None => self.loose.extend(run),
            }
        }
        for at in 0..=count {
            match hidden.remove(&at) {
                Some(run) => self.push_run(run),
                None => self.gaps.push(vec![Cow::Borrowed(shown.gaps[at])]),
            }
            if let Some((text, name)) = shown.entries.get(at) {
                self.items.push(Item {
                    text: Cow::Borrowed(text),
                    name: name.clone(),
                    here: true,
                    was_here: true,
                    credential: shown.credentials[at].clone(),
                    record: None,
                });
            }
        }
    }

    fn push_run(&mut self, run: Vec<Parked>) {
        self.gaps.extend(run.first().map(|first| pieces(&first.before)));
        for parked in run {
            self.gaps.push(pieces(&parked.after));
            self.items.push(Item {
                text: Cow::Owned(parked.entry.clone()),
                name: Cow::Owned(parked.key.user.clone()),
                here: false,
                was_here: false,
                credential: None,
                record: Some(parked),
            });
        }
    }

    /// How new entries are to be written.
    fn style(&self) -> Style {
        let line_end = if self.file.text.contains("\r\n") { "\r\n" } else { "\n" };
        let outer = splice::indent_of_line(&self.file.text, self.inside.start - 1);
        let leading = &self.gaps[..self.items.len()];
        let blank_of = |gap: &Gap<'_>| {
            let (_, after) = gap.last()?.rsplit_once('\n')?;
            Some(after.chars().take_while(|c| matches!(c, ' ' | '\t')).collect::<String>())
        };
        let indent = match self.items.is_empty() {
            true => Some(format!("{outer}{}", splice::unit(&self.file.text))),
            false => leading.iter().rev().find_map(blank_of),
        };
        let tight = leading.get(1).and_then(|gap| gap.first()).is_some_and(|gap| gap == ",");
        Style { line_end, indent, outer, blank: if tight { "" } else { " " } }
    }

    /// Puts an entry into the full list before the place `at`.
    pub fn insert(&mut self, at: usize, name: &str, text: String) {
        self.reshaped = true;
        let ends = ends(at, self.items.len());
        let style = self.style.take().unwrap_or_else(|| self.style());
        let parts: Vec<&str> = self.gaps[at].iter().map(Cow::as_ref).collect();
        let (before, after) = gap::open(&gap::join(&parts, ends), ends, &style);
        self.style = Some(style);
        self.gaps[at] = vec![Cow::Owned(before)];
        self.gaps.insert(at + 1, vec![Cow::Owned(after)]);
        let (text, name) = (Cow::Owned(text), Cow::Owned(name.to_owned()));
        let item = Item { text, name, here: true, was_here: false, credential: None, record: None };
        self.items.insert(at, item);
    }

    /// Puts a loose entry back, near to where it was.
    pub fn insert_loose(&mut self, parked: Parked) {
        let near = |wanted: &Option<String>| {
            let name = wanted.as_deref()?;
            let found = self.items.iter().enumerate().filter(|(_, item)| item.name == name);
            found.map(|(at, _)| at).min_by_key(|at| at.abs_diff(parked.index))
        };
        let at = match (near(&parked.previous), near(&parked.next)) {
            (Some(before), _) => before + 1,
            (None, Some(after)) => after,
            (None, None) => parked.index.min(self.items.len()),
        };
        self.insert(at, &parked.key.user, parked.entry);
    }

    /// Takes entries out of the full list for good.
    pub fn delete(&mut self, mut goes: impl FnMut(&Item<'a>) -> bool) {
        self.style = None;
        let (items, gaps) = (std::mem::take(&mut self.items), std::mem::take(&mut self.gaps));
        let mut gaps = gaps.into_iter();
        self.gaps.extend(gaps.next());
        for (item, after) in items.into_iter().zip(gaps) {
            match (goes(&item), self.gaps.last_mut()) {
                (true, Some(before)) => {
                    before.extend(after);
                    self.reshaped = true;
                }
                _ => {
                    self.items.push(item);
                    self.gaps.push(after);
                }
            }
        }
    }

    pub fn credential_of(kind: &Sort, record: &Parked) -> Option<String> {
        entry::credential_of(kind, &record.entry)
    }

    /// Everybody, in or out.
    pub fn known(&self) -> Known {
        let mut known = Known::default();
        for item in &self.items {
            known.add(&item.name, item.credential(&self.kind).map(Cow::into_owned));
        }
        for record in &self.loose {
            known.add(&record.key.user, entry::credential_of(&self.kind, &record.entry));
        }
        for record in &self.returned {
            known.add(&record.key.user, None);
        }
        known
    }

    /// Is the array to be written without anybody who can come in?
    pub fn is_deserted(&self) -> bool {
        !self.items.iter().any(|item| item.here && item.name != LOCKED_USER)
    }

    /// Sees to it that the array is not empty: `locked` makes the text of a locked entry, which goes
    /// again as soon as somebody is in.
    pub fn lock(&mut self, locked: impl FnOnce(&Self) -> String) {
        if !self.is_deserted() {
            self.delete(|item| item.name == LOCKED_USER);
            self.stand_in = None;
        } else if self.items.iter().any(|item| item.name == LOCKED_USER) {
            // It stays.
        } else if self.items.is_empty() {
            // Nobody was ever in, and boxmeter took nobody out.
            if self.was_empty && self.loose.is_empty() && self.stand_in.is_none() {
                return;
            }
            let text = self.stand_in.take().unwrap_or_else(|| locked(self));
            self.insert(0, LOCKED_USER, text);
        } else if self.stand_in.is_none() {
            self.stand_in = Some(locked(self));
            self.reshaped = true;
        }
    }

    /// Names in the file as it will be.
    pub fn names(&self) -> Vec<&str> {
        match &self.stand_in {
            Some(_) => vec![LOCKED_USER],
            None => self.items.iter().filter(|item| item.here).map(|item| item.name.as_ref()).collect(),
        }
    }

    fn is_changed(&self) -> bool {
        self.reshaped || self.items.iter().any(|item| item.here != item.was_here)
    }

    /// What changes in the file.
    pub fn splice(&self) -> Option<Splice> {
        if !self.is_changed() {
            return None;
        }
        let old = &self.file.text[self.inside.clone()];
        let new = self.render();
        if old == new {
            return None;
        }
        let common = |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
        let mut start = common(&mut old.bytes().zip(new.bytes()));
        while !old.is_char_boundary(start) || !new.is_char_boundary(start) {
            start -= 1;
        }
        let most = old.len().min(new.len()) - start;
        let mut end = common(&mut old.bytes().rev().zip(new.bytes().rev())).min(most);
        while !old.is_char_boundary(old.len() - end) || !new.is_char_boundary(new.len() - end) {
            end -= 1;
        }
        let range = self.inside.start + start..self.inside.end - end;
        Some(Splice { range, with: new[start..new.len() - end].to_owned() })
    }

    fn render(&self) -> String {
        let mut out = String::with_capacity(self.inside.len() + 256);
        let mut chain: Vec<&str> = Vec::new();
        let mut opens = true;
        for (at, item) in self.items.iter().enumerate() {
            chain.extend(self.gaps[at].iter().map(Cow::as_ref));
            let text = match &self.stand_in {
                Some(locked) if at == 0 => Some(locked.as_str()),
                _ => item.here.then_some(item.text.as_ref()),
            };
            if let Some(text) = text {
                out.push_str(&gap::join(&chain, Ends { opens, closes: false }));
                out.push_str(text);
                chain.clear();
                opens = false;
            }
        }
        chain.extend(self.gaps[self.items.len()].iter().map(Cow::as_ref));
        out.push_str(&gap::join(&chain, Ends { opens, closes: true }));
        out
    }

    /// The records of all that are out now.
    pub fn records(&self, hash: &str) -> Vec<Parked> {
        let others = self.loose.iter().chain(&self.returned).cloned();
        if !self.is_changed() {
            return self.items.iter().filter_map(|item| item.record.clone()).chain(others).collect();
        }
        let mut records = Vec::new();
        let texts = |gap: &Gap<'_>| gap.iter().map(|piece| piece.clone().into_owned()).collect();
        let name = |at: usize| self.items.get(at).map(|item| item.name.clone().into_owned());
        for (index, item) in self.items.iter().enumerate().filter(|(_, item)| !item.here) {
            records.push(Parked {
                key: ParkedKey { user: item.name.clone().into_owned(), inbound: self.tag.clone(), nth: 0 },
                kind: self.kind.name.clone(),
                file: self.file.path.as_ref().clone(),
                entry: item.text.clone().into_owned(),
                index,
                previous: index.checked_sub(1).and_then(name),
                next: name(index + 1),
                before: texts(&self.gaps[index]),
                after: texts(&self.gaps[index + 1]),
                from: item.record.as_ref().map_or_else(|| hash.to_owned(), |record| record.from.clone()),
                left: item.record.as_ref().is_some_and(|record| record.left),
                returned: false,
            });
        }
        records.extend(others);
        let mut seen: HashMap<String, u32> = HashMap::new();
        for record in &mut records {
            let nth = seen.entry(record.key.user.clone()).or_default();
            record.key.nth = *nth;
            *nth += 1;
        }
        records
    }
}

/// The text before the locked entry that stands for the first of a run.
fn shown_of_head(run: &[Parked]) -> String {
    let first = run.first().map(|parked| parked.before.as_slice());
    shown(first, Ends { opens: true, closes: false })
}
