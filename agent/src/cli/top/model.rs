//! What the live view shows and how keys change it. No terminal, no IO.

use std::sync::Arc;

use boxmeter_web::api::live::{LiveSnapshot, LiveUser};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// The longest text that is searched for.
const SEARCH_CHARS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Rate,
    Total,
    Name,
}

impl Sort {
    pub fn parse(text: &str) -> Result<Sort, String> {
        match text {
            "rate" => Ok(Sort::Rate),
            "total" => Ok(Sort::Total),
            "name" => Ok(Sort::Name),
            _ => Err("give one of rate, total, name".to_owned()),
        }
    }

    fn next(self) -> Sort {
        match self {
            Sort::Rate => Sort::Total,
            Sort::Total => Sort::Name,
            Sort::Name => Sort::Rate,
        }
    }

    pub fn key(self) -> &'static str {
        match self {
            Sort::Rate => "top.by_rate",
            Sort::Total => "top.by_total",
            Sort::Name => "top.by_name",
        }
    }
}

/// What a key led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Go,
    Quit,
}

#[derive(Debug)]
pub struct Model {
    pub snapshot: Option<Arc<LiveSnapshot>>,
    pub sort: Sort,
    pub reversed: bool,
    pub search: String,
    pub searching: bool,
    pub help: bool,
    /// Why the figures stand still.
    pub stale: Option<String>,
    selected: usize,
}

impl Model {
    pub fn new(sort: Sort) -> Self {
        Model {
            snapshot: None,
            sort,
            reversed: false,
            search: String::new(),
            searching: false,
            help: false,
            stale: None,
            selected: 0,
        }
    }

    pub fn take(&mut self, snapshot: Arc<LiveSnapshot>) {
        self.snapshot = Some(snapshot);
        self.stale = None;
    }

    /// The lines in their order.
    pub fn lines(&self) -> Vec<&LiveUser> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let wanted = self.search.to_lowercase();
        let found = |user: &&LiveUser| wanted.is_empty() || user.name.to_lowercase().contains(&wanted);
        let mut users: Vec<&LiveUser> = snapshot.users.iter().map(|it| &**it).filter(found).collect();
        order(&mut users, self.sort);
        if self.reversed {
            users.reverse();
        }
        users
    }

    /// The marked line, within what there is.
    pub fn selected(&self, lines: usize) -> Option<usize> {
        lines.checked_sub(1).map(|last| self.selected.min(last))
    }

    pub fn key(&mut self, key: KeyEvent, page: usize) -> Step {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Step::Quit;
        }
        if self.searching {
            self.search_key(key.code);
            return Step::Go;
        }
        if self.help {
            self.help = false;
            return Step::Go;
        }
        let last = self.lines().len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Esc if self.search.is_empty() => return Step::Quit,
            KeyCode::Esc => self.search.clear(),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.searching = true,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Up | KeyCode::Char('k') => self.go(-1, last),
            KeyCode::Down | KeyCode::Char('j') => self.go(1, last),
            KeyCode::PageUp => self.go(-isize::try_from(page).unwrap_or(1), last),
            KeyCode::PageDown => self.go(isize::try_from(page).unwrap_or(1), last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            _ => {}
        }
        Step::Go
    }

    fn search_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.searching = false,
            KeyCode::Esc => {
                self.searching = false;
                self.search.clear();
            }
            KeyCode::Backspace => {
                self.search.pop();
            }
            KeyCode::Char(c) if self.search.chars().count() < SEARCH_CHARS_MAX => {
                self.search.push(c);
            }
            _ => {}
        }
        self.selected = 0;
    }

    fn go(&mut self, by: isize, last: usize) {
        self.selected = self.selected.min(last).saturating_add_signed(by).min(last);
    }
}

/// Sorts lines; equal ones by name, so that they do not dance.
pub fn order(users: &mut [&LiveUser], sort: Sort) {
    let rate = |user: &LiveUser| user.live.upload_rate.saturating_add(user.live.download_rate);
    users.sort_by(|a, b| {
        let first = match sort {
            Sort::Rate => rate(b).cmp(&rate(a)).then(b.period_bytes.cmp(&a.period_bytes)),
            Sort::Total => b.total_bytes.cmp(&a.total_bytes),
            Sort::Name => std::cmp::Ordering::Equal,
        };
        first.then_with(|| a.name.cmp(&b.name))
    });
}
