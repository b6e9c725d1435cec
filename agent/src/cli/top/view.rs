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
    let mut table = Table::default()
        .words(context.text("col.user"), 0)
        .words(context.text("col.state"), 2)
        .numbers(context.text("col.up_rate"), 0)
        .numbers(context.text("col.down_rate"), 0)
        .numbers(context.text("col.flows"), 1)
        .numbers(context.text("col.period"), 0)
        .numbers(context.text("col.total"), 3);
    let mut users: Vec<&LiveUser> = snapshot.users.iter().collect();
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
    out.push_str(&table.render(context));
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
    let wide = area.width >= WIDE;
    let titles = ["col.user", "col.state", "col.up_rate", "col.down_rate", "col.flows"];
    let mut titles: Vec<&str> = titles.to_vec();
    titles.push("col.period");
    let mut widths = vec![
        Constraint::Min(12),
        Constraint::Length(9),
        Constraint::Length(11),
        Constraint::Length(11),
        Constraint::Length(6),
        Constraint::Length(if wide { 21 } else { 10 }),
    ];
    if wide {
        titles.push("col.total");
        widths.push(Constraint::Length(10));
    }
    let name_columns = usize::from(area.width).saturating_sub(if wide { 74 } else { 52 }).max(12);
    let header =
        Row::new(titles.iter().enumerate().map(|(at, key)| aligned(context.text(key).to_owned(), at >= 2)));
    let rows = users.iter().map(|user| row(context, user, name_columns, wide));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let grid = Grid::new(rows, widths)
        .header(header.style(bold))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(model.selected(users.len()));
    frame.render_stateful_widget(grid, area, &mut state);
}

fn row(context: &Context, user: &LiveUser, name_columns: usize, wide: bool) -> Row<'static> {
    let period = if wide { of_quota(user.period_bytes, user.quota_bytes) } else { bytes(user.period_bytes) };
    let state = colour(context, state_colour(user.state));
    let mut cells = vec![
        Text::from(safe_cut(&user.name, name_columns)),
        Text::styled(state_text(context, user.state), state),
        aligned(rate(user.live.upload_rate), true),
        aligned(rate(user.live.download_rate), true),
        aligned(user.live.flows.to_string(), true),
        aligned(period, true),
    ];
    if wide {
        cells.push(aligned(bytes(user.total_bytes), true));
    }
    Row::new(cells)
}

fn aligned(text: String, right: bool) -> Text<'static> {
    let side = if right { Alignment::Right } else { Alignment::Left };
    Text::from(text).alignment(side)
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
