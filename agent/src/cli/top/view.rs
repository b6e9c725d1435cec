//! How the live view looks, on a terminal and as plain text.

use boxmeter_web::api::{
    live::{LiveSnapshot, LiveUser},
    types::UserState,
};
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Clear, Paragraph, Row, Table as Grid, TableState},
};

use super::model::{Model, Sort, order};
use crate::cli::{
    context::Context,
    format::{bytes, of_quota, rate, safe, safe_cut, second, share},
    table::{Cell, Table},
    users::{state_text, tone},
};

/// From this width on there is room for the columns of less weight.
const WIDE: u16 = 100;
/// Below this width there is room for the name, one rate and one size.
const MEDIUM: u16 = 66;
/// The narrowest that a name is cut to.
const NAME_COLUMNS_MIN: u16 = 12;

/// The view as one table, for pipes and `--once`.
pub fn plain(context: &Context, snapshot: &LiveSnapshot, sort: Sort) -> String {
    let mut out = String::new();
    for line in head(context, snapshot) {
        out.push_str(&line);
        out.push('\n');
    }
    out.push('\n');
    if snapshot.users.is_empty() {
        out.push_str(context.text("users.none"));
        return out;
    }
    let mut table = Table::new(context)
        .words("col.user", 0)
        .words("col.state", 2)
        .numbers("col.up_rate", 0)
        .numbers("col.down_rate", 0)
        .numbers("col.flows", 1)
        .numbers("col.period", 0)
        .numbers("col.total", 3);
    let mut users: Vec<&LiveUser> = snapshot.users.iter().map(|it| &**it).collect();
    order(&mut users, sort);
    for user in users {
        table.row(vec![
            Cell::name(&user.name),
            Cell::new(state_text(context, user.state)).tone(tone(user.state)),
            Cell::new(rate(user.live.upload_rate)),
            Cell::new(rate(user.live.download_rate)),
            Cell::new(user.live.flows.to_string()),
            Cell::new(of_quota(user.period_bytes, user.quota_bytes)),
            Cell::new(bytes(user.total_bytes)),
        ]);
    }
    out.push_str(&table.render());
    out
}

/// Totals, health and reasons, as plain lines.
fn head(context: &Context, snapshot: &LiveSnapshot) -> Vec<String> {
    let totals = &snapshot.totals;
    let values = [
        ("up", rate(totals.upload_rate)),
        ("down", rate(totals.download_rate)),
        ("flows", totals.flows.to_string()),
        ("today", bytes(totals.today_bytes)),
        ("total", bytes(totals.total_bytes)),
        ("share", share(totals.unattributed_bytes, totals.total_bytes)),
        ("time", second(&snapshot.at)),
    ];
    let values: Vec<(&str, &str)> = values.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut lines = vec![context.fill("top.totals", &values), context.fill("top.totals2", &values)];
    for it in snapshot.degraded.iter().take(2) {
        lines.push(format!("! {}: {}", safe(&it.part), safe_cut(&it.reason, 120)));
    }
    lines
}

/// Draws everything and says how many lines of users there is room for.
pub fn draw(context: &Context, frame: &mut Frame, model: &Model) -> usize {
    let head = header(context, model);
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(u16::try_from(head.len()).unwrap_or(4)),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head), top);
    draw_users(context, frame, model, middle);
    frame.render_widget(Paragraph::new(footer(context, model)), bottom);
    if model.help {
        draw_help(context, frame);
    }
    usize::from(middle.height.saturating_sub(1)).max(1)
}

fn header(context: &Context, model: &Model) -> Vec<Line<'static>> {
    let Some(snapshot) = &model.snapshot else {
        return vec![Line::from(context.text("top.waiting").to_owned())];
    };
    let mut lines = Vec::new();
    for (at, text) in head(context, snapshot).into_iter().enumerate() {
        let style = if at < 2 { Style::new() } else { colour(context, Color::Yellow) };
        lines.push(Line::styled(text, style));
    }
    if let Some(why) = &model.stale {
        let text = context.fill("top.stale", &[("reason", &safe_cut(why, 100))]);
        lines.push(Line::styled(text, colour(context, Color::Red)));
    } else if snapshot.ok && snapshot.degraded.is_empty() {
        let text = context.text("top.well").to_owned();
        lines.push(Line::styled(text, colour(context, Color::Green)));
    }
    lines
}

fn colour(context: &Context, colour: Color) -> Style {
    if context.colour { Style::new().fg(colour) } else { Style::new() }
}

fn draw_users(context: &Context, frame: &mut Frame, model: &Model, area: Rect) {
    let users = model.lines();
    if users.is_empty() {
        if model.snapshot.is_some() {
            let key = if model.search.is_empty() { "users.none" } else { "users.none_match" };
            frame.render_widget(Paragraph::new(context.text(key).to_owned()), area);
        }
        return;
    }
    let columns = columns(area.width, model.sort);
    let taken: u16 = columns.iter().map(|column| column.width + 1).sum();
    let name_columns = area.width.saturating_sub(taken).max(NAME_COLUMNS_MIN);
    let mut widths = vec![Constraint::Length(name_columns)];
    widths.extend(columns.iter().map(|column| Constraint::Length(column.width)));
    let mut titles = vec![Text::from(context.text("col.user").to_owned())];
    titles.extend(columns.iter().map(|column| column.text(context.text(column.title).to_owned())));
    let rows = users.iter().map(|user| {
        let mut cells = vec![Text::from(safe_cut(&user.name, usize::from(name_columns)))];
        cells.extend(columns.iter().map(|column| column.text((column.value)(context, user))));
        // The state is the first column after the name wherever it is shown.
        if columns.first().is_some_and(|column| column.title == STATE) {
            cells[1] = cells[1].clone().style(colour(context, state_colour(user.state)));
        }
        Row::new(cells)
    });
    let grid = Grid::new(rows, widths)
        .header(Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD)))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(model.selected(users.len()));
    frame.render_stateful_widget(grid, area, &mut state);
}

const STATE: &str = "col.state";

/// A column beside the name's.
struct Column {
    title: &'static str,
    width: u16,
    right: bool,
    value: fn(&Context, &LiveUser) -> String,
}

impl Column {
    fn text(&self, text: String) -> Text<'static> {
        Text::from(text).alignment(if self.right { Alignment::Right } else { Alignment::Left })
    }
}

/// What a view of this width has room for; what it is sorted by is always there.
fn columns(width: u16, sort: Sort) -> Vec<Column> {
    let number = |title, width, value| Column { title, width, right: true, value };
    let mut columns = Vec::new();
    if width >= MEDIUM {
        columns.push(Column {
            title: STATE,
            width: 9,
            right: false,
            value: |context, user| state_text(context, user.state),
        });
        columns.push(number("col.up_rate", 11, |_, user| rate(user.live.upload_rate)));
        columns.push(number("col.down_rate", 11, |_, user| rate(user.live.download_rate)));
        columns.push(number("col.flows", 6, |_, user| user.live.flows.to_string()));
    } else {
        columns.push(number("col.rate", 11, |_, user| {
            rate(user.live.upload_rate.saturating_add(user.live.download_rate))
        }));
    }
    if width >= WIDE {
        columns.push(number("col.period", 21, |_, user| of_quota(user.period_bytes, user.quota_bytes)));
    } else if sort != Sort::Total {
        columns.push(number("col.period", 9, |_, user| bytes(user.period_bytes)));
    }
    if width >= WIDE || sort == Sort::Total {
        columns.push(number("col.total", 9, |_, user| bytes(user.total_bytes)));
    }
    columns
}

fn state_colour(state: UserState) -> Color {
    match state {
        UserState::Active => Color::Green,
        UserState::Throttled | UserState::Pending => Color::Yellow,
        UserState::Limited | UserState::Expired | UserState::Suspended => Color::Red,
        UserState::Disabled => Color::DarkGray,
    }
}

fn footer(context: &Context, model: &Model) -> Line<'static> {
    if model.searching {
        return Line::from(format!("/{}▏", safe_cut(&model.search, 60)));
    }
    let mut text = context.fill("top.footer", &[("sort", context.text(model.sort.key()))]);
    if !model.search.is_empty() {
        text.push_str(&format!("  /{}", safe_cut(&model.search, 30)));
    }
    Line::from(Span::styled(text, Style::new().add_modifier(Modifier::DIM)))
}

fn draw_help(context: &Context, frame: &mut Frame) {
    let text = context.text("top.help").to_owned();
    let lines = text.lines().count();
    let area = frame.area();
    let height = u16::try_from(lines + 2).unwrap_or(12).min(area.height);
    let width = 56.min(area.width);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(format!(" {} ", context.text("top.help_title")));
    frame.render_widget(Paragraph::new(text).block(block), place);
}
