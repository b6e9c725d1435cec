//! Query parameters to queries and back, so that both ends agree on names and forms.
//!
//! A wrong value names its parameter and what would be right; an unknown parameter is an error, so
//! that a misspelt filter never answers with everything.

use jiff::{Timestamp, Zoned};

use super::{
    error::ApiError,
    query::{AuditQuery, By, EventQuery, FlowFilter, LIMIT_MAX, Page, UsageQuery, UserFilter, UserSort},
    time::parse_time,
    types::{Severity, UserState},
};

/// Names and values as they stand in the URL.
pub type Pairs = Vec<(String, String)>;

/// The parameters of one request, taken one by one.
pub struct Params {
    pairs: Pairs,
    known: Vec<&'static str>,
}

impl Params {
    pub fn new(pairs: Pairs) -> Self {
        Params { pairs, known: Vec::new() }
    }

    /// The value, which may be given once. An empty text is one that is not given.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        Ok(self.value(name)?.filter(|value| !value.is_empty()))
    }

    fn value(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.known.push(name);
        let Some(at) = self.pairs.iter().position(|(key, _)| key == name) else {
            return Ok(None);
        };
        let (_, value) = self.pairs.remove(at);
        if self.pairs.iter().any(|(key, _)| key == name) {
            return Err(ApiError::bad_request(format!("{name} is given twice: give it once")));
        }
        Ok(Some(value))
    }

    /// A time, relative to `now` where it is an age or a day.
    pub fn time(&mut self, name: &'static str, now: &Zoned) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = self.value(name)? else { return Ok(None) };
        match parse_time(&text, now) {
            Ok(time) => Ok(Some(time)),
            Err(error) => Err(ApiError::bad_request(format!("{name}: {error}"))),
        }
    }

    /// The beginning and end of a range, which is not empty.
    pub fn range(&mut self, now: &Zoned) -> Result<(Option<Timestamp>, Option<Timestamp>), ApiError> {
        let (from, to) = (self.time("from", now)?, self.time("to", now)?);
        check_range(from, to)?;
        Ok((from, to))
    }

    /// One of some words.
    pub fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>, ApiError> {
        let Some(text) = self.value(name)? else { return Ok(None) };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let list = list.join(", ");
        Err(ApiError::bad_request(format!("{name}: {text:?} is not one of {list}")))
    }

    /// `after` and `limit`.
    pub fn page(&mut self) -> Result<Page, ApiError> {
        let after = self.text("after")?;
        let limit = match self.value("limit")? {
            None => Page::default().limit,
            Some(text) => match text.parse() {
                Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => limit,
                _ => {
                    return Err(ApiError::bad_request(format!(
                        "limit: {text:?} is not a whole number from 1 to {LIMIT_MAX}"
                    )));
                }
            },
        };
        Ok(Page { after, limit })
    }

    /// An error if something is left that nobody took.
    pub fn finish(self) -> Result<(), ApiError> {
        let Some((name, _)) = self.pairs.first() else { return Ok(()) };
        let known = match self.known.as_slice() {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        Err(ApiError::bad_request(format!("unknown parameter {name:?}; known here: {known}")))
    }
}

/// `to` lies after `from`, where both are given.
///
/// # Errors
/// `BadRequest` otherwise.
pub fn check_range(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), ApiError> {
    match (from, to) {
        (Some(from), Some(to)) if to <= from => Err(ApiError::bad_request(format!(
            "the range is empty: from is {from}, to is {to}; `to` is exclusive, and a day or month \
             means its beginning"
        ))),
        _ => Ok(()),
    }
}

/// A query that travels as URL parameters.
pub trait Parameters: Sized {
    /// # Errors
    /// `BadRequest` with the parameter's name.
    fn from_params(params: &mut Params, now: &Zoned) -> Result<Self, ApiError>;

    fn to_pairs(&self) -> Pairs;
}

/// Reads a whole query string, refusing what is left over.
///
/// # Errors
/// `BadRequest` with the parameter's name.
pub fn read<Q: Parameters>(pairs: Pairs, now: &Zoned) -> Result<Q, ApiError> {
    let mut params = Params::new(pairs);
    let query = Q::from_params(&mut params, now)?;
    params.finish()?;
    Ok(query)
}

/// Adds the parameters that are given.
fn push(pairs: &mut Pairs, name: &str, value: Option<String>) {
    if let Some(value) = value {
        pairs.push((name.to_owned(), value));
    }
}

fn push_page(pairs: &mut Pairs, page: &Page) {
    push(pairs, "after", page.after.clone());
    push(pairs, "limit", Some(page.limit.to_string()));
}

/// A user filter and its page.
impl Parameters for (UserFilter, Page) {
    fn from_params(params: &mut Params, _now: &Zoned) -> Result<Self, ApiError> {
        let words = UserState::ALL.map(|state| (state.as_str(), state));
        let sorts = UserSort::ALL.map(|sort| (sort.as_str(), sort));
        let filter = UserFilter {
            state: params.word("state", &words)?,
            search: params.text("search")?,
            policy: params.text("policy")?,
            online: params.word("online", &[("true", true), ("false", false)])?.unwrap_or_default(),
            sort: params.word("sort", &sorts)?.unwrap_or_default(),
        };
        Ok((filter, params.page()?))
    }

    fn to_pairs(&self) -> Pairs {
        let (filter, page) = self;
        let mut pairs = Pairs::new();
        push(&mut pairs, "state", filter.state.map(|state| state.as_str().to_owned()));
        push(&mut pairs, "search", filter.search.clone());
        push(&mut pairs, "policy", filter.policy.clone());
        push(&mut pairs, "online", filter.online.then(|| "true".to_owned()));
        push(&mut pairs, "sort", (filter.sort != UserSort::Name).then(|| filter.sort.as_str().to_owned()));
        push_page(&mut pairs, page);
        pairs
    }
}

/// A list without a filter.
impl Parameters for Page {
    fn from_params(params: &mut Params, _now: &Zoned) -> Result<Self, ApiError> {
        params.page()
    }

    fn to_pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        push_page(&mut pairs, self);
        pairs
    }
}

impl Parameters for UsageQuery {
    fn from_params(params: &mut Params, now: &Zoned) -> Result<Self, ApiError> {
        let user = params.text("user")?;
        let (from, to) = params.range(now)?;
        let by = params.word("by", &By::ALL.map(|by| (by.as_str(), by)))?;
        Ok(UsageQuery { user, from, to, by, page: params.page()? })
    }

    fn to_pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        push(&mut pairs, "user", self.user.clone());
        push(&mut pairs, "from", self.from.map(|time| time.to_string()));
        push(&mut pairs, "to", self.to.map(|time| time.to_string()));
        push(&mut pairs, "by", self.by.map(|by| by.as_str().to_owned()));
        push_page(&mut pairs, &self.page);
        pairs
    }
}

impl Parameters for FlowFilter {
    fn from_params(params: &mut Params, _now: &Zoned) -> Result<Self, ApiError> {
        let (user, inbound) = (params.text("user")?, params.text("inbound")?);
        Ok(FlowFilter { user, inbound, page: params.page()? })
    }

    fn to_pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        push(&mut pairs, "user", self.user.clone());
        push(&mut pairs, "inbound", self.inbound.clone());
        push_page(&mut pairs, &self.page);
        pairs
    }
}

impl Parameters for EventQuery {
    fn from_params(params: &mut Params, now: &Zoned) -> Result<Self, ApiError> {
        let (user, since) = (params.text("user")?, params.time("since", now)?);
        let severity = params.word("severity", &Severity::ALL.map(|it| (it.as_str(), it)))?;
        let by_people = params.word("who", &[("people", true)])?.unwrap_or_default();
        let newest = params.word("order", &[("oldest", false), ("newest", true)])?.unwrap_or_default();
        Ok(EventQuery { user, since, severity, by_people, newest, page: params.page()? })
    }

    fn to_pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        push(&mut pairs, "user", self.user.clone());
        push(&mut pairs, "since", self.since.map(|time| time.to_string()));
        push(&mut pairs, "severity", self.severity.map(|it| it.as_str().to_owned()));
        push(&mut pairs, "who", self.by_people.then(|| "people".to_owned()));
        push(&mut pairs, "order", self.newest.then(|| "newest".to_owned()));
        push_page(&mut pairs, &self.page);
        pairs
    }
}

impl Parameters for AuditQuery {
    fn from_params(params: &mut Params, now: &Zoned) -> Result<Self, ApiError> {
        let (from, to) = params.range(now)?;
        Ok(AuditQuery { from, to })
    }

    fn to_pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        push(&mut pairs, "from", self.from.map(|time| time.to_string()));
        push(&mut pairs, "to", self.to.map(|time| time.to_string()));
        pairs
    }
}

/// A request that takes no parameters.
impl Parameters for () {
    fn from_params(_params: &mut Params, _now: &Zoned) -> Result<Self, ApiError> {
        Ok(())
    }

    fn to_pairs(&self) -> Pairs {
        Pairs::new()
    }
}
