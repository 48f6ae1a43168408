//! How the demo looks: numbered scenes, labelled lines, a verdict each.

use crate::term;

/// Where lines break.
const WIDTH: usize = 96;
/// Room for labels.
const LABEL: usize = 11;

/// What was shown so far.
#[derive(Default)]
pub(super) struct Screen {
    /// Scenes begun.
    pub(super) shown: u32,
    /// Scenes whose promise held.
    pub(super) held: u32,
}

impl Screen {
    /// Begins a scene.
    pub(super) fn scene(&mut self, title: &str) {
        self.shown += 1;
        println!();
        println!("{}", term::bold(&format!("{}  {title}", self.shown)));
    }

    /// A labelled line, broken where it is too long.
    pub(super) fn say(&self, label: &str, text: &str) {
        let mut label = label;
        for line in wrap(text, WIDTH - LABEL - 3) {
            println!("   {} {line}", term::dim(&format!("{label:<LABEL$}")));
            label = "";
        }
    }

    /// Ends a scene.
    pub(super) fn verdict(&mut self, held: bool, sentence: &str) {
        self.held += u32::from(held);
        println!("   {} {sentence}", term::mark(held));
    }

    /// Whether each promise held.
    pub(super) fn all_held(&self) -> bool {
        self.held == self.shown
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrap_breaks_between_words_only() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
