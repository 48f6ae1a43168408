//! A recording as a picture that plays by itself: SVG with CSS, nothing fetched, no script. Each line of the
//! terminal is there once for each text that it has had, and is visible while it has it. Where nothing
//! may move, or nothing can, it is the marked moment.

use std::fmt::Write as _;

use vt100::{Cell, Color, Parser, Screen};

use super::cast::{Cast, What};

/// A character's place, in tenths of a pixel: as wide as in most fonts of this size, and no gap between lines.
const WIDTH: u32 = 84;
const HEIGHT: u32 = 168;
const FONT: u32 = 140;
/// Around the characters, and above them for the window's bar.
const MARGIN: u32 = 140;
const BAR: u32 = 300;
/// From the top of a line to where its letters stand.
const BASE: u32 = 130;

/// What comes within so many milliseconds is shown together; of a program that draws the whole screen, which
/// does so again and again, in longer steps.
const TOGETHER: u64 = 70;
const WHOLE_SCREEN: u64 = 450;
/// How long the last moment stays before all begins again.
const STAYS: u64 = 4_500;

/// The sixteen colours of a terminal, the text and its ground: in the dark, and in the light.
const DARK: [&str; 18] = [
    "#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4",
    "#6e7681", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#f0f6fc",
    "#e6edf3", "#0d1117",
];
const LIGHT: [&str; 18] = [
    "#24292f", "#cf222e", "#116329", "#9a6700", "#0969da", "#8250df", "#1b7c83", "#6e7781",
    "#57606a", "#a40e26", "#1a7f37", "#7d4e00", "#218bff", "#a475f9", "#3192aa", "#8c959f",
    "#1f2328", "#f6f8fa",
];

/// What a line has looked like, and from when until when: `u64::MAX` if it does at the end.
struct Look {
    drawn: String,
    from: u64,
    until: u64,
}

/// The picture of a recording.
pub(super) fn draw(cast: &Cast) -> String {
    let (looks, end) = looks(cast);
    let total = end + STAYS;
    let width = u32::from(cast.columns) * WIDTH + 2 * MARGIN;
    let height = u32::from(cast.rows) * HEIGHT + BAR + MARGIN;
    let title = escaped(&cast.title);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\">\n<title>{title}</title>\n<style>\n{}",
        style(total),
        w = tenths(width),
        h = tenths(height),
    );
    let mut intervals: Vec<(u64, u64)> = Vec::new();
    let mut drawn = String::new();
    for (row, looks) in (0..).zip(&looks) {
        let top = BAR + row * HEIGHT;
        for look in looks.iter().filter(|look| !look.drawn.is_empty()) {
            let until = look.until.min(total);
            let interval = (look.from, until);
            let number = match intervals.iter().position(|known| *known == interval) {
                Some(number) => number,
                None => {
                    intervals.push(interval);
                    intervals.len() - 1
                }
            };
            let still = (look.from..until).contains(&end);
            let class = if still { "p " } else { "" };
            let (x, y) = (tenths(MARGIN), tenths(top));
            let _ = writeln!(
                drawn,
                "<g class=\"{class}k{number}\" transform=\"translate({x} {y})\">{}</g>",
                look.drawn
            );
        }
    }
    for (number, (from, until)) in intervals.iter().enumerate() {
        svg += &keyframes(number, *from, *until, total);
    }
    let _ = write!(
        svg,
        "</style>\n<rect class=\"ground\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n\
         <g class=\"bar\"><circle cx=\"18\" cy=\"15\" r=\"5\"/><circle cx=\"35\" cy=\"15\" r=\"5\"/><circle cx=\"52\" cy=\"15\" r=\"5\"/></g>\n\
         <text class=\"d\" x=\"50%\" y=\"19.5\" text-anchor=\"middle\">{title}</text>\n{drawn}</svg>\n"
    );
    svg
}

/// What each line has looked like, until the marked moment or the end; and when that is.
fn looks(cast: &Cast) -> (Vec<Vec<Look>>, u64) {
    let mut parser = Parser::new(cast.rows, cast.columns, 0);
    let mut looks: Vec<Vec<Look>> = (0..cast.rows).map(|_| Vec::new()).collect();
    // What comes after the mark is for players, which are left as they were found.
    let shown = cast
        .events
        .iter()
        .position(|event| event.what == What::Marker)
        .map_or(cast.events.len(), |mark| mark + 1);
    let mut events = cast.events.iter().take(shown).peekable();
    let (mut begin, mut end) = (None, 0);
    while let Some(event) = events.next() {
        if let What::Output(text) = &event.what {
            parser.process(text.as_bytes());
        }
        let begun = *begin.get_or_insert(event.at);
        end = begun;
        let together = match parser.screen().alternate_screen() {
            true => WHOLE_SCREEN,
            false => TOGETHER,
        };
        if events.peek().is_some_and(|next| next.at < begun + together) {
            continue;
        }
        begin = None;
        for (row, looks) in (0..).zip(&mut looks) {
            let drawn = line(parser.screen(), row, cast.columns);
            match looks.last_mut() {
                Some(last) if last.drawn == drawn => {}
                last => {
                    if let Some(last) = last {
                        last.until = begun;
                    }
                    looks.push(Look {
                        drawn,
                        from: begun,
                        until: u64::MAX,
                    });
                }
            }
        }
    }
    (looks, end)
}

/// A run of characters that look the same.
#[derive(Default)]
struct Run {
    text: String,
    column: u16,
    columns: u16,
    class: String,
    style: String,
    ground: Option<String>,
}

/// A line of the screen: what is behind its characters, then these.
fn line(screen: &Screen, row: u16, columns: u16) -> String {
    let mut runs: Vec<Run> = Vec::new();
    let (cursor_row, cursor_column) = screen.cursor_position();
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column) else {
            continue;
        };
        if cell.is_wide_continuation() {
            continue;
        }
        let cursor = !screen.hide_cursor() && (row, column) == (cursor_row, cursor_column);
        let looks = run(cell, column, cursor);
        match runs.last_mut() {
            Some(last)
                if (&last.class, &last.style, &last.ground)
                    == (&looks.class, &looks.style, &looks.ground)
                    // Frames are of another font where the usual one has none: they keep to their columns.
                    && is_ascii(&last.text) == is_ascii(&looks.text) =>
            {
                last.text += &looks.text;
                last.columns += looks.columns;
            }
            _ => runs.push(looks),
        }
    }
    let mut drawn = String::new();
    for run in &runs {
        if let Some(ground) = &run.ground {
            let _ = write!(
                drawn,
                "<rect x=\"{}\" width=\"{}\" height=\"{}\" {ground}/>",
                tenths(u32::from(run.column) * WIDTH),
                tenths(u32::from(run.columns) * WIDTH),
                tenths(HEIGHT),
            );
        }
    }
    for run in &runs {
        let text = run.text.trim_end_matches(' ');
        let lead = text.len() - text.trim_start_matches(' ').len();
        let text = text.trim_start_matches(' ');
        if text.is_empty() {
            continue;
        }
        let trimmed = u16::try_from(lead).unwrap_or_default();
        let end = run.text.len() - run.text.trim_end_matches(' ').len();
        let width = run.columns - trimmed - u16::try_from(end).unwrap_or_default();
        let length = match width {
            1 => String::new(),
            width => format!(" textLength=\"{}\"", tenths(u32::from(width) * WIDTH)),
        };
        let class = match run.class.trim() {
            "" => String::new(),
            class => format!(" class=\"{class}\""),
        };
        let _ = write!(
            drawn,
            "<text x=\"{}\" y=\"{}\"{length}{class}{}>{}</text>",
            tenths(u32::from(run.column + trimmed) * WIDTH),
            tenths(BASE),
            run.style,
            escaped(text),
        );
    }
    drawn
}

fn is_ascii(text: &str) -> bool {
    text.is_ascii()
}

/// One character.
fn run(cell: &Cell, column: u16, cursor: bool) -> Run {
    let inverse = cell.inverse() != cursor;
    let (mut text, mut ground) = (cell.fgcolor(), cell.bgcolor());
    if inverse {
        (text, ground) = (ground, text);
    }
    let mut run = Run {
        text: match cell.contents() {
            "" => " ".to_owned(),
            contents => contents.to_owned(),
        },
        column,
        columns: 1 + u16::from(cell.is_wide()),
        ..Run::default()
    };
    match (colour(text), inverse) {
        (Colour::None, false) => {}
        (Colour::None, true) => run.class.push_str("c17 "),
        (Colour::Class(number), _) => run.class = format!("c{number} "),
        (Colour::Is(colour), _) => run.style = format!(" fill=\"{colour}\""),
    }
    run.ground = match (colour(ground), inverse) {
        (Colour::None, false) => None,
        (Colour::None, true) => Some("class=\"c16\"".to_owned()),
        (Colour::Class(number), _) => Some(format!("class=\"c{number}\"")),
        (Colour::Is(colour), _) => Some(format!("fill=\"{colour}\"")),
    };
    for (is, class) in [
        (cell.bold(), "b "),
        (cell.dim() && !inverse, "d "),
        (cell.italic(), "i "),
        (cell.underline(), "u "),
    ] {
        if is {
            run.class.push_str(class);
        }
    }
    run
}

enum Colour {
    /// As everything else.
    None,
    /// One of the sixteen.
    Class(u8),
    Is(String),
}

fn colour(colour: Color) -> Colour {
    match colour {
        Color::Default => Colour::None,
        Color::Idx(number @ 0..16) => Colour::Class(number),
        // A cube of six levels each, then greys.
        Color::Idx(number @ 16..232) => {
            let level = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
            let number = number - 16;
            let (red, green, blue) = (number / 36, number / 6 % 6, number % 6);
            Colour::Is(hex(level(red), level(green), level(blue)))
        }
        Color::Idx(number) => {
            let grey = 8 + 10 * (number - 232);
            Colour::Is(hex(grey, grey, grey))
        }
        Color::Rgb(red, green, blue) => Colour::Is(hex(red, green, blue)),
    }
}

fn hex(red: u8, green: u8, blue: u8) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn style(total: u64) -> String {
    let mut style = format!(
        "text{{font:{}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace;white-space:pre}}\n\
         .b{{font-weight:700}}.d{{opacity:.62}}.i{{font-style:italic}}.u{{text-decoration:underline}}\n\
         [class*=k]{{visibility:hidden;animation:{total}ms step-end infinite}}\n.p{{visibility:visible}}\n",
        tenths(FONT)
    );
    let palette = |colours: &[&str; 18]| {
        let mut rules = String::new();
        for (number, colour) in colours.iter().enumerate() {
            let _ = write!(rules, ".c{number}{{fill:{colour}}}");
        }
        let [.., text, ground] = colours;
        let _ = write!(
            rules,
            "text{{fill:{text}}}.ground{{fill:{ground};stroke:#8886}}.bar{{fill:#8888}}"
        );
        rules
    };
    let _ = write!(
        style,
        "{}\n@media (prefers-color-scheme:light){{{}}}\n@media (prefers-reduced-motion:reduce){{[class*=k]{{animation:none!important}}}}\n",
        palette(&DARK),
        palette(&LIGHT)
    );
    style
}

fn keyframes(number: usize, from: u64, until: u64, total: u64) -> String {
    let hidden = "{visibility:hidden}";
    let mut frames = String::new();
    if from > 0 {
        let _ = write!(frames, "0%{hidden}");
    }
    let _ = write!(frames, "{}{{visibility:visible}}", percent(from, total));
    if until < total {
        let _ = write!(frames, "{},to{hidden}", percent(until, total));
    } else {
        frames += "to{visibility:visible}";
    }
    format!("@keyframes k{number}{{{frames}}}.k{number}{{animation-name:k{number}}}\n")
}

/// With three digits, as whole numbers are computed everywhere in the same way.
fn percent(part: u64, total: u64) -> String {
    let thousandths = part * 100_000 / total.max(1);
    format!("{}.{:03}%", thousandths / 1_000, thousandths % 1_000)
}

fn tenths(number: u32) -> String {
    match number % 10 {
        0 => (number / 10).to_string(),
        rest => format!("{}.{rest}", number / 10),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::cast::Event;
    use super::*;

    fn output(at: u64, text: &str) -> Event {
        let what = What::Output(text.to_owned());
        Event { at, what }
    }

    fn cast(events: Vec<Event>) -> Cast {
        Cast {
            title: "a & b".to_owned(),
            columns: 20,
            rows: 3,
            events,
        }
    }

    #[test]
    fn each_text_of_a_line_is_drawn_once_and_has_its_time() {
        let svg = draw(&cast(vec![
            output(0, "stays\r\n"),
            output(500, "first"),
            output(510, "!"),
            output(1_500, "\rthen <"),
            Event {
                at: 1_600,
                what: What::Marker,
            },
            output(1_700, "\x1b[2Jgone"),
        ]));
        for (words, times) in [
            ("stays", 1),
            ("first!", 1),
            (">first<", 0),
            ("then &lt;", 1),
            ("gone", 0),
            ("a &amp; b", 2),
        ] {
            assert_eq!(svg.matches(words).count(), times, "{words} in {svg}");
        }
        // What is visible where nothing moves.
        let still: Vec<&str> = svg.lines().filter(|line| line.contains("\"p k")).collect();
        assert_eq!(still.len(), 2, "{svg}");
        assert!(still[1].contains("then"), "{still:?}");
        // 500 and 1500 of 1600 + 4500 milliseconds.
        assert!(svg.contains(
            "0%{visibility:hidden}8.196%{visibility:visible}24.590%,to{visibility:hidden}"
        ));
    }

    #[test]
    fn colours_and_weights_are_those_of_the_terminal() {
        let svg = draw(&cast(vec![output(
            0,
            "\x1b[?25l\x1b[32mgreen\x1b[0m \x1b[1;7mmark\x1b[0m \x1b[38;5;196mred\x1b[0m",
        )]));
        for part in [
            "class=\"c2\">green<",
            "<rect x=\"50.4\" width=\"33.6\" height=\"16.8\" class=\"c16\"/>",
            "class=\"c17 b\">mark<",
            "fill=\"#ff0000\">red<",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
    }
}
