//! Conditions of the imported dialects: an operator on an argument or on a counter.

use serde_json::{Map, Value};

use super::{
    Knowledge, RuleRef, Scope, Window,
    argument::Argument,
    operator::{Equality, Operator, Truth},
};

/// What a call is asked, all conditions together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Clause {
    pub(super) demand: Demand,
    pub(super) conditions: Vec<Condition>,
    pub(super) rule: RuleRef,
    /// What the policy says when this denies.
    pub(super) on_deny: Option<String>,
    /// The rule's name, where the dialect's rules have one: by it, denials go that have no words
    /// of their own.
    pub(super) name: Option<String>,
}

/// What a clause does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Denies unless each condition holds.
    Require,
    /// Denies unless one of the conditions does not hold; without conditions, always.
    DenyIf,
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) subject: Subject,
    pub(super) operator: Operator,
    pub(super) equality: Equality,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Subject {
    Argument(Argument),
    /// What a counter holds before the call.
    Counter {
        counter: String,
        scope: Scope,
        window: Window,
    },
}

/// Why a clause denies.
pub(super) struct Refusal<'a> {
    pub(super) reason: String,
    /// The condition that one could do something about.
    pub(super) condition: Option<&'a Condition>,
}

impl Clause {
    /// Whether no call passes, whatever its arguments.
    pub(super) fn is_closed(&self) -> bool {
        self.demand == Demand::DenyIf && self.conditions.is_empty()
    }

    /// Why the call does not pass, if it does not.
    pub(super) fn refuse(
        &self,
        arguments: &Map<String, Value>,
        known: &dyn Knowledge,
    ) -> Option<Refusal<'_>> {
        match self.demand {
            Demand::Require => {
                let failed = self
                    .conditions
                    .iter()
                    .find(|condition| condition.holds(arguments, known) != Truth::Yes)?;
                Some(Refusal {
                    reason: failed.refusal(arguments),
                    condition: Some(failed),
                })
            }
            Demand::DenyIf => {
                let spared = self
                    .conditions
                    .iter()
                    .any(|condition| condition.holds(arguments, known) == Truth::No);
                if spared {
                    return None;
                }
                let words: Vec<String> = self.conditions.iter().map(Condition::words).collect();
                let only = match self.conditions.as_slice() {
                    [only] => Some(only),
                    _ => None,
                };
                Some(Refusal {
                    reason: if words.is_empty() {
                        "All calls of this tool are denied.".to_owned()
                    } else {
                        format!("Calls are denied where {}.", words.join(" and "))
                    },
                    condition: only,
                })
            }
        }
    }

    /// What would be allowed, in a sentence, where one condition decides.
    pub(super) fn instead(&self, refusal: &Refusal<'_>) -> Option<String> {
        let condition = refusal.condition?;
        let Subject::Argument(argument) = &condition.subject else {
            return None;
        };
        let name = argument.name();
        Some(match (self.demand, &condition.operator) {
            (Demand::Require, Operator::Exists(true))
            | (Demand::DenyIf, Operator::Exists(false)) => format!("Call again with `{name}`."),
            (Demand::Require, Operator::Exists(false))
            | (Demand::DenyIf, Operator::Exists(true)) => format!("Call again without `{name}`."),
            (Demand::Require, operator) => format!("Send {} as `{name}`.", operator.words()),
            (Demand::DenyIf, operator) => format!("Send {} as `{name}`.", operator.opposite()),
        })
    }

    /// The same for programs.
    pub(super) fn allowed(&self, refusal: &Refusal<'_>) -> Option<Value> {
        let condition = refusal.condition?;
        let Subject::Argument(argument) = &condition.subject else {
            return None;
        };
        let (key, value) = condition.operator.data();
        let mut allowed = Map::new();
        allowed.insert("argument".to_owned(), Value::from(argument.name()));
        match self.demand {
            Demand::Require => drop(allowed.insert(key.to_owned(), value)),
            Demand::DenyIf => {
                let operator: Map<String, Value> = [(key.to_owned(), value)].into_iter().collect();
                allowed.insert("not".to_owned(), Value::Object(operator));
            }
        }
        Some(Value::Object(allowed))
    }
}

impl Condition {
    /// What can be said of it. A path that leads into what is no object is open, as a server
    /// might find an object in it; so is a name that some servers take for this one.
    pub(super) fn holds(&self, arguments: &Map<String, Value>, known: &dyn Knowledge) -> Truth {
        match &self.subject {
            Subject::Argument(argument) => match argument.find(arguments) {
                Ok(value) => self.operator.compare(value, self.equality),
                Err(_) => Truth::Open,
            },
            Subject::Counter {
                counter,
                scope,
                window,
            } => {
                let count = Value::from(known.count(counter, *scope, *window));
                self.operator.compare(Some(&count), self.equality)
            }
        }
    }

    fn refusal(&self, arguments: &Map<String, Value>) -> String {
        match &self.subject {
            Subject::Argument(argument) => match argument.find(arguments) {
                Ok(value) => match self.operator {
                    Operator::Exists(true) => {
                        format!("The argument `{}` is required.", argument.name())
                    }
                    Operator::Exists(false) => {
                        format!("The argument `{}` is not allowed.", argument.name())
                    }
                    _ => format!(
                        "The argument `{}` {}.",
                        argument.name(),
                        self.operator.refusal(value)
                    ),
                },
                Err(reason) => reason,
            },
            Subject::Counter { counter, .. } => {
                format!("The counter `{counter}` is {}.", self.operator.opposite())
            }
        }
    }

    fn words(&self) -> String {
        let name = match &self.subject {
            Subject::Argument(argument) => argument.name(),
            Subject::Counter { counter, .. } => counter,
        };
        format!("`{name}` is {}", self.operator.words())
    }
}
