//! What is drawn: two lines about the pool, the lists, and the keys.

use crate::client::lists::{List, lists};
use crate::client::survey::Survey;
use crate::words::{clean, span};
use crossterm::event::KeyCode;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Wrap};
use swarm_protocol::Millis;

/// Where less is shown than this, nothing is.
const LEAST: (u16, u16) = (32, 8);
const LISTS: usize = 5;
/// A column that gives way keeps this much, or is left out.
const LEAST_COLUMN: u16 = 12;
/// Above this age of what is shown, it is said that it is old.
const OLD: Millis = Millis::from_secs(60);

/// What the person at the keys looks at.
#[derive(Debug, Clone, Default)]
pub(super) struct Screen {
    /// The list that has the whole screen; none shows all five.
    pub chosen: Option<usize>,
    /// Rows passed over in each list.
    pub scrolled: [usize; LISTS],
    /// Rows that the chosen list has room for.
    pub room: usize,
}

impl Screen {
    /// Does what a key is for.
    pub fn press(&mut self, key: KeyCode) {
        let page = self.room.max(1);
        match key {
            KeyCode::Char(digit @ '1'..='5') => self.chosen = Some(digit as usize - '1' as usize),
            KeyCode::Char('0' | 'a') => self.chosen = None,
            KeyCode::Tab | KeyCode::Right => {
                self.chosen = self.chosen.map_or(Some(0), |n| (n + 1 < LISTS).then_some(n + 1));
            }
            KeyCode::BackTab | KeyCode::Left => {
                self.chosen = self.chosen.map_or(Some(LISTS - 1), |n| n.checked_sub(1));
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll(|at| at.saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(|at| at.saturating_sub(1)),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll(|at| at.saturating_add(page)),
            KeyCode::PageUp => self.scroll(|at| at.saturating_sub(page)),
            KeyCode::Home | KeyCode::Char('g') => self.scroll(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.scroll(|_| usize::MAX),
            _ => {}
        }
    }

    fn scroll(&mut self, to: impl Fn(usize) -> usize) {
        if let Some(chosen) = self.chosen {
            self.scrolled[chosen] = to(self.scrolled[chosen]);
        }
    }

    /// Draws everything.
    pub fn draw(&mut self, frame: &mut Frame<'_>, survey: &Survey) {
        let area = frame.area();
        if area.width < LEAST.0 || area.height < LEAST.1 {
            let text = format!("{}x{} is needed; q quits", LEAST.0, LEAST.1);
            return frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        }
        let warning = u16::from(!survey.evidence.is_empty());
        let rows = [2, warning].map(Constraint::Length);
        let [head, alarm, body, foot] =
            area.layout(&Layout::vertical([rows[0], rows[1], Constraint::Fill(1), Constraint::Length(1)]));
        frame.render_widget(heading(survey, area.width), head);
        if let Some(first) = survey.evidence.first() {
            let text = format!(" evidence against the operator ({}): {first}", survey.evidence.len());
            frame.render_widget(Line::from(text).style(alert()), alarm);
        }
        let lists = lists(survey);
        match self.chosen {
            Some(chosen) => self.draw_chosen(frame, &lists[chosen], body),
            None => draw_all(frame, &lists, body),
        }
        frame.render_widget(keys(area.width, self.chosen.is_some()), foot);
    }

    fn draw_chosen(&mut self, frame: &mut Frame<'_>, list: &List, area: Rect) {
        self.room = usize::from(area.height.saturating_sub(3));
        let scrolled = &mut self.scrolled[self.chosen.unwrap_or_default()];
        *scrolled = (*scrolled).min(list.rows.len().saturating_sub(self.room));
        draw_list(frame, list, *scrolled, area);
    }
}

fn alert() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED)
}

/// The pool, and whether what is shown is of now.
fn heading(survey: &Survey, width: u16) -> Paragraph<'static> {
    let live = survey.miners.iter().filter(|miner| miner.live).count();
    let pool = format!(
        " {}  epoch {}  {} pending, {} leased  {live} live miner{}",
        clean(&survey.pool),
        survey.epoch,
        survey.pending,
        survey.leased,
        if live == 1 { "" } else { "s" },
    );
    let age = span(Millis(survey.age_ms));
    let operator = if !survey.operator_in_reach {
        let text = format!(" operator OUT OF REACH, looking for it; this is what was known {age} ago");
        Line::from(text).style(alert())
    } else if survey.age_ms > OLD.0 {
        Line::from(format!(" operator in reach, but silent for {age}")).style(alert())
    } else {
        let heard = format!(" operator in reach, heard {age} ago");
        let balance =
            survey.free_usdc.as_ref().map(|free| format!("  you have {free} USDC")).unwrap_or_default();
        let roomy = heard.len() + balance.len() <= usize::from(width);
        Line::from(if roomy { format!("{heard}{balance}") } else { heard })
    };
    Paragraph::new(vec![Line::from(pool).bold(), operator])
}

fn keys(width: u16, scrolls: bool) -> Line<'static> {
    let long = if scrolls {
        " q quit   0 all lists   1-5 or Tab another list   ↑ ↓ PgUp PgDn Home End scroll"
    } else {
        " q quit   1 jobs   2 miners   3 epochs   4 my jobs   5 peers   Tab the next"
    };
    let text = if Line::raw(long).width() <= usize::from(width) {
        long
    } else {
        " q quit  0-5 lists  ↑↓ scroll"
    };
    Line::from(text).add_modifier(Modifier::REVERSED)
}

/// All lists at once: in two columns where there is room, below each other where it is high, else those that fit.
fn draw_all(frame: &mut Frame<'_>, lists: &[List; LISTS], area: Rect) {
    let [jobs, miners, epochs, mine, peers] = lists;
    if area.width >= 72 {
        let third = Constraint::Fill(1);
        let [top, middle, bottom] = area.layout(&Layout::vertical([third; 3]));
        let [left, right] = top.layout(&Layout::horizontal([Constraint::Fill(1); 2]));
        draw_list(frame, jobs, 0, left);
        draw_list(frame, miners, 0, right);
        let [left, right] = middle.layout(&Layout::horizontal([Constraint::Fill(1); 2]));
        draw_list(frame, mine, 0, left);
        draw_list(frame, epochs, 0, right);
        return draw_list(frame, peers, 0, bottom);
    }
    let fitting = usize::from(area.height / 4).clamp(1, LISTS);
    let areas = Layout::vertical(vec![Constraint::Fill(1); fitting]).split(area);
    for (list, area) in [jobs, mine, miners, epochs, peers].into_iter().zip(areas.iter()) {
        draw_list(frame, list, 0, *area);
    }
}

fn draw_list(frame: &mut Frame<'_>, list: &List, from: usize, area: Rect) {
    let room = usize::from(area.height.saturating_sub(3));
    let shown = list.rows.iter().skip(from).take(room);
    let total = list.rows.len();
    let mut title = format!(" {} ({total}) ", list.title);
    if total > room && room > 0 {
        title = format!(" {} ({}-{} of {total}) ", list.title, from + 1, (from + room).min(total));
    }
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    if total == 0 {
        let text = Paragraph::new(list.empty).wrap(Wrap { trim: true }).dim();
        return frame.render_widget(text.block(block), area);
    }
    let (chosen, widths) = fitting(list, inner.width);
    let header = Row::new(chosen.iter().map(|n| Cell::new(list.columns[*n].name))).dim();
    let rows = shown.map(|row| Row::new(chosen.iter().map(|n| cell(&row[*n]))));
    frame.render_widget(Table::new(rows, widths).header(header).block(block), area);
}

fn cell(text: &str) -> Cell<'_> {
    let style = match text.split([':', ',']).next().unwrap_or_default() {
        "answered" | "live" => Style::new().fg(Color::Green),
        "leased" | "open" => Style::new().fg(Color::Yellow),
        "refunded" | "gone" | "unknown" => Style::new().fg(Color::Red),
        _ => Style::new(),
    };
    Cell::new(text).style(style)
}

/// The columns for which there is room, in their order, and how wide each is: as wide as what is in it, at most as it may
/// be, and where that is too much the widest give way.
fn fitting(list: &List, width: u16) -> (Vec<usize>, Vec<Constraint>) {
    let needed: Vec<u16> = (0..list.columns.len()).map(|n| needed(list, n)).collect();
    let mut chosen: Vec<usize> = (0..list.columns.len()).collect();
    let with_gaps =
        |cells: u16, columns: usize| cells + u16::try_from(columns.saturating_sub(1)).unwrap_or(0);
    let least = |chosen: &[usize]| chosen.iter().map(|n| needed[*n].min(LEAST_COLUMN)).sum();
    while with_gaps(least(&chosen), chosen.len()) > width
        && let Some(worst) = (1..chosen.len()).max_by_key(|n| (list.columns[chosen[*n]].rank, *n))
    {
        chosen.remove(worst);
    }
    let mut widths: Vec<u16> = chosen.iter().map(|n| needed[*n]).collect();
    while with_gaps(widths.iter().sum(), widths.len()) > width
        && let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > 1)
    {
        *widest -= 1;
    }
    (chosen, widths.into_iter().map(Constraint::Length).collect())
}

fn needed(list: &List, column: usize) -> u16 {
    let cells = list.rows.iter().map(|row| Line::raw(row[column].as_str()).width());
    let most = cells.chain([list.columns[column].name.len()]).max().unwrap_or(0);
    u16::try_from(most).unwrap_or(u16::MAX).min(list.columns[column].width)
}
