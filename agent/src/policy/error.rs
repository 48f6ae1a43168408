//! What is wrong with a policy file, and where.

use std::{fmt, ops::Range, sync::Arc};

use serde_saphyr::Error as YamlError;

use super::{Dialect, RuleRef, load::Place};

/// Things that are told of one file at most.
const MOST: usize = 20;

/// A policy file that cannot be used: what is wrong, where, and what was expected there.
///
/// `Display` gives one line, `policy.yaml:12:7: unknown key …`; [`PolicyError::excerpt`] and
/// [`PolicyError::help_text`] have what a full report shows besides. Where more is wrong, this is the
/// first thing in the file, and [`PolicyError::others`] has the rest.
pub struct PolicyError(Box<Fault>, Vec<PolicyError>);

struct Fault {
    message: String,
    label: String,
    help: Option<String>,
    place: Option<Place>,
    source: Source,
}

/// A line of a policy file in which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt<'a> {
    /// The line, without its end.
    pub line: &'a str,
    /// The bytes of it that are wrong.
    pub wrong: Range<usize>,
    /// What is to be said of them: `here`.
    pub label: &'a str,
}

impl PolicyError {
    /// Something that is wrong with a rule, found out when the policy had been loaded. `text` is the
    /// file's, and may be empty where it is not known any more.
    #[must_use]
    pub fn of_rule(rule: &RuleRef, text: &str, message: String, help: &str) -> Self {
        let source = Source {
            file: Arc::clone(&rule.file),
            text: text.into(),
        };
        let place = Place {
            line: rule.line,
            column: rule.column,
            offset: 0,
            length: usize::MAX,
        };
        source.fault(place, message, "here", Some(help.to_owned()))
    }

    /// All of them as one; none if there is none.
    pub fn all(errors: impl IntoIterator<Item = Self>) -> Option<Self> {
        errors.into_iter().reduce(|mut first, other| {
            first.join(other);
            first
        })
    }

    /// The line in which it is wrong; none if the file could not be read at all.
    #[must_use]
    pub fn excerpt(&self) -> Option<Excerpt<'_>> {
        let place = self.0.place?;
        let text = &*self.0.source.text;
        let before = text.get(..place.offset)?;
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = text.get(start..)?.lines().next().unwrap_or_default();
        let from = (place.offset - start).min(line.len());
        let to = (from + place.length).min(line.len());
        Some(Excerpt {
            line,
            wrong: from..to,
            label: &self.0.label,
        })
    }

    /// What else is wrong, by where it stands: at most 19 things, which have no others.
    #[must_use]
    pub fn others(&self) -> &[Self] {
        &self.1
    }

    /// Each thing that is wrong, by itself.
    #[must_use]
    pub fn each(self) -> Vec<Self> {
        let Self(first, others) = self;
        let mut each = vec![Self(first, Vec::new())];
        each.extend(others);
        each
    }

    /// Takes up what else is wrong.
    pub(super) fn join(&mut self, mut other: Self) {
        self.1.append(&mut other.1);
        self.1.push(other);
        self.1.sort_by_key(Self::order);
        let mine = self.order();
        if let Some(earliest) = self.1.first_mut()
            && earliest.order() < mine
        {
            std::mem::swap(&mut self.0, &mut earliest.0);
            self.1.sort_by_key(Self::order);
        }
        self.1.truncate(MOST - 1);
    }

    /// Says in whose language the file was read, which was told by its shape.
    pub(super) fn read_as(mut self, dialect: Dialect) -> Self {
        let said = format!("This file is read as {}, by its shape.", dialect.name());
        self.0.help = Some(match self.0.help.take() {
            Some(help) => format!("{help}\n{said}"),
            None => said,
        });
        self
    }

    fn order(&self) -> (u64, u64) {
        (self.line().unwrap_or(0), self.column().unwrap_or(0))
    }

    /// Nothing was made of the file, though nothing was found wrong with it.
    pub(super) fn incomplete() -> Self {
        Source::unreadable("policy", "cannot be made sense of".to_owned(), None)
    }

    /// The file, as it was named.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.0.source.file
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was expected.
    #[must_use]
    pub fn help_text(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// Line, from 1; none if the file could not be read at all.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        self.0.place.map(|place| place.line)
    }

    /// Column in characters, from 1; none if the file could not be read at all.
    #[must_use]
    pub fn column(&self) -> Option<u64> {
        self.0.place.map(|place| place.column)
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())?;
        if let Some(place) = self.0.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.0.message)
    }
}

impl fmt::Debug for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Some(help) = &self.0.help {
            write!(f, " (help: {help})")?;
        }
        self.1.iter().try_for_each(|other| write!(f, "\n{other:?}"))
    }
}

impl std::error::Error for PolicyError {}

/// A policy file's name and text, from which errors and rule references are made.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) file: Arc<str>,
    pub(crate) text: Arc<str>,
}

impl Source {
    /// A fault at a place: `message` says what is wrong, `label` is shown under the excerpt.
    pub(crate) fn fault(
        &self,
        place: Place,
        message: impl Into<String>,
        label: impl Into<String>,
        help: Option<String>,
    ) -> PolicyError {
        let fault = Fault {
            message: message.into(),
            label: label.into(),
            help,
            place: Some(self.sound(place)),
            source: self.clone(),
        };
        PolicyError(Box::new(fault), Vec::new())
    }

    /// A fault of the file as a whole.
    pub(crate) fn unreadable(file: &str, message: String, help: Option<String>) -> PolicyError {
        let fault = Fault {
            message,
            label: String::new(),
            help,
            place: None,
            source: Self {
                file: file.into(),
                text: Arc::from(""),
            },
        };
        PolicyError(Box::new(fault), Vec::new())
    }

    /// A key stands twice in one map.
    pub(super) fn twice(&self, place: Place, key: Option<&str>) -> PolicyError {
        let message = match key {
            Some(key) => format!("`{}` is written twice", key.escape_debug()),
            None => "a key is written twice".to_owned(),
        };
        let help = "Keep one of them: which one would count is a guess.";
        self.fault(place, message, "here", Some(help.to_owned()))
    }

    /// What the YAML parser found, in a policy writer's words.
    pub(super) fn yaml(&self, error: &YamlError) -> PolicyError {
        let place = error.location().map(Place::from).unwrap_or_default();
        let error = match error {
            YamlError::AliasError { error, .. } => error.as_ref(),
            other => other,
        };
        let (message, help) = match error {
            YamlError::DuplicateMappingKey { key, .. } => {
                return self.twice(place, key.as_deref());
            }
            YamlError::MergeKeyNotAllowed { .. } => (
                "`<<` merges are not accepted".to_owned(),
                Some("Write the keys out, so that each rule stands where it applies.".to_owned()),
            ),
            YamlError::NonFiniteFloat { value, .. } => (
                format!("`{}` is not a number that can be counted to", value.escape_debug()),
                Some("Write a finite number; to lift a cap, leave its key out.".to_owned()),
            ),
            YamlError::Budget { .. }
            | YamlError::AliasReplayLimitExceeded { .. }
            | YamlError::AliasExpansionLimitExceeded { .. }
            | YamlError::AliasReplayStackDepthExceeded { .. } => (
                format!("the file goes beyond what a policy may need: {}", plain(error)),
                Some("A policy is one document of at most 1 MiB, 16 levels deep and with few aliases.".to_owned()),
            ),
            other => (plain(other), None),
        };
        self.fault(place, message, "here", help)
    }

    /// The rule whose key stands at a place.
    pub(crate) fn rule(&self, place: Place, path: impl Into<String>) -> RuleRef {
        RuleRef {
            file: Arc::clone(&self.file),
            line: place.line,
            column: place.column,
            path: path.into(),
        }
    }

    /// The place with bytes that are surely inside the text: the parser does not know them for
    /// every error.
    fn sound(&self, place: Place) -> Place {
        let line = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let column = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let mut offset = 0;
        for text in self.text.split_inclusive('\n').take(line) {
            offset += text.len();
        }
        let rest = self.text.get(offset..).unwrap_or_default();
        let rest = rest.strip_prefix('\u{feff}').map_or(rest, |after| {
            offset += rest.len() - after.len();
            after
        });
        let here = rest.lines().next().unwrap_or_default();
        let indent: usize = here.chars().take(column).map(char::len_utf8).sum();
        let offset = offset + indent;
        // An excerpt of one line is enough: a block's span would cover the rest of the file.
        let length = place
            .length
            .clamp(1, here.len().saturating_sub(indent).max(1))
            .min(self.text.len() - offset);
        let length = (length..=self.text.len() - offset)
            .find(|length| self.text.is_char_boundary(offset + length))
            .unwrap_or(0);
        Place {
            line: place.line.max(1),
            column: place.column.max(1),
            offset,
            length,
        }
    }
}

/// The parser's own words, without the place that it appends.
fn plain(error: &YamlError) -> String {
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(before, _)| before);
    text.chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
