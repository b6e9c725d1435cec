//! Tables without lines: numbers to the right, names cut to what the terminal has, and columns of
//! little weight left out where it is narrow.

use comfy_table::{Attribute, Cell as Comfy, CellAlignment, Color, ContentArrangement, Table as ComfyTable};
use unicode_width::UnicodeWidthStr;

use super::{
    context::Context,
    format::{Tone, safe_cut},
};

/// The widest that a name is shown in a table that is not cut to a terminal.
const NAME_COLUMNS_MAX: usize = 40;
/// The narrowest that a name is cut to.
const NAME_COLUMNS_MIN: usize = 12;
/// Blanks between two columns.
const GAP: usize = 2;

pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    /// Text that we made.
    pub fn new(text: impl Into<String>) -> Self {
        Cell { text: text.into(), tone: None }
    }

    /// Text from outside; it is escaped.
    pub fn name(text: &str) -> Self {
        Cell::new(safe_cut(text, NAME_COLUMNS_MAX))
    }

    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = Some(tone);
        self
    }

    pub fn tone_if(self, wanted: bool, tone: Tone) -> Self {
        if wanted { self.tone(tone) } else { self }
    }
}

struct Column {
    title: String,
    right: bool,
    /// Left out where the terminal is narrow, highest first; 0 stays.
    weight: u8,
}

pub struct Table<'a> {
    context: &'a Context,
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl<'a> Table<'a> {
    pub fn new(context: &'a Context) -> Self {
        Table { context, columns: Vec::new(), rows: Vec::new() }
    }

    /// A column of words; its title is the text of a key.
    pub fn words(self, key: &str, weight: u8) -> Self {
        self.column(key, weight, false)
    }

    /// A column of numbers, to the right.
    pub fn numbers(self, key: &str, weight: u8) -> Self {
        self.column(key, weight, true)
    }

    fn column(mut self, key: &str, weight: u8, right: bool) -> Self {
        self.columns.push(Column { title: self.context.text(key).to_owned(), right, weight });
        self
    }

    /// A row; it has as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell per column");
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|it| it.title.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        widths
    }

    /// Leaves out columns and cuts the first one until the table fits.
    fn fit(&mut self, limit: usize) {
        let total = |widths: &[usize]| widths.iter().map(|w| w + GAP).sum::<usize>() - GAP;
        let mut widths = self.widths();
        while total(&widths) > limit {
            let heaviest = (0..self.columns.len()).max_by_key(|at| self.columns[*at].weight);
            match heaviest.filter(|at| self.columns[*at].weight > 0) {
                Some(at) => self.remove(at),
                None => break,
            }
            widths = self.widths();
        }
        let over = total(&widths).saturating_sub(limit);
        if over > 0 {
            let keep = widths[0].saturating_sub(over).max(NAME_COLUMNS_MIN);
            for row in &mut self.rows {
                row[0].text = safe_cut(&row[0].text, keep);
            }
        }
    }

    fn remove(&mut self, at: usize) {
        self.columns.remove(at);
        for row in &mut self.rows {
            row.remove(at);
        }
    }

    /// The text, ending with a line break.
    pub fn render(mut self) -> String {
        if let Some(width) = self.context.width {
            self.fit(width);
        }
        let mut table = ComfyTable::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.force_no_tty();
        if self.context.colour {
            table.enforce_styling();
        }
        table.set_header(self.columns.iter().map(|it| Comfy::new(&it.title).add_attribute(Attribute::Bold)));
        for row in self.rows {
            table.add_row(row.into_iter().map(styled));
        }
        let last = self.columns.len().saturating_sub(1);
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if at == last { 0 } else { GAP as u16 }));
            if self.columns[at].right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        text
    }
}

fn styled(cell: Cell) -> Comfy {
    let comfy = Comfy::new_owned(cell.text);
    match cell.tone {
        None => comfy,
        Some(Tone::Good) => comfy.fg(Color::Green),
        Some(Tone::Warn) => comfy.fg(Color::Yellow),
        Some(Tone::Bad) => comfy.fg(Color::Red),
        Some(Tone::Dim) => comfy.add_attribute(Attribute::Dim),
        Some(Tone::Bold) => comfy.add_attribute(Attribute::Bold),
    }
}

/// Names and values, one per line, the values aligned. Values are shown as they are.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, value) in pairs {
        let blanks = " ".repeat(widest - name.width() + GAP);
        out.push_str(&format!("  {name}{blanks}{value}\n"));
    }
    out
}
