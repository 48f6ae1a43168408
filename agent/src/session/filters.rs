//! The capture filters of a session: compiled for the sockets that it can have, held against each
//! other, and translated for the guard.
//!
//! What runs is always all of them, one after the other, whatever a proof says. The proof tells
//! whether the policy takes anything from what was asked, so that whoever asked can be told, or, where
//! the policy says so, refused.

use crate::{
    filter::{
        Budget, CompileError, Compiler, Containment, EbpfInsn, Emptiness, LinkType, Origin,
        Program, SocketForm, compose, is_empty, prove, see_vlan_tags, translate,
    },
    policy::{FilterOrigin, FilterTerm, InterfaceTerms, Outside, Terms},
};

use super::GrantError;

/// What a session of these terms would leave out of the requested filter; an error where it would
/// not open for the filters' sake. `link` is the link type of its raw sockets.
pub fn foresee(
    terms: &Terms,
    link: LinkType,
    compiler: &Compiler,
) -> Result<Option<Cut>, GrantError> {
    let any = terms.interfaces == InterfaceTerms::Any;
    let filters = Filters::make(&terms.filters, terms.outside, link, any, compiler)?;
    Ok(filters.cut)
}

/// Whether a filter stays within another: an error says what is wrong with it, or where it leads
/// outside, with a packet.
///
/// # Errors
///
/// One of them does not compile, the requested one can match nothing, or it could not be shown to
/// stay within.
pub fn stays_within(
    requested: String,
    within: String,
    link: LinkType,
    compiler: &Compiler,
) -> Result<(), GrantError> {
    let term = |expression, origin| FilterTerm { expression, origin };
    let terms = [
        term(requested, FilterOrigin::Requested),
        term(within, FilterOrigin::Policy),
    ];
    Filters::make(&terms, Outside::Deny, link, false, compiler).map(|_| ())
}

/// All filters of a session.
pub(super) struct Filters {
    /// For `SOCK_RAW` sockets.
    pub(super) raw: Vec<EbpfInsn>,
    /// For `SOCK_DGRAM` sockets; none where a filter only makes sense with a link header.
    pub(super) cooked: Option<Vec<EbpfInsn>>,
    /// What the policy's filter takes from the requested one.
    pub(super) cut: Option<Cut>,
}

/// What the policy's filter leaves out of what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The requested filter.
    pub requested: String,
    /// The policy's.
    pub within: String,
    /// A packet that only the requested one matches, in words; none where no answer was found
    /// in the time that is given to the question.
    pub example: Option<String>,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            requested, within, ..
        } = self;
        match &self.example {
            Some(example) => write!(
                f,
                "{requested:?} also matches packets outside {within:?}, which are left out; one such: {example}"
            ),
            None => write!(
                f,
                "{requested:?} may also match packets outside {within:?}, which are left out"
            ),
        }
    }
}

impl Filters {
    /// Compiles and compares them. `link` is the link type of raw sockets; `cooked_first` tells that
    /// the session is about `any`, which tools capture from with cooked ones.
    pub(super) fn make(
        terms: &[FilterTerm],
        outside: Outside,
        link: LinkType,
        cooked_first: bool,
        compiler: &Compiler,
    ) -> Result<Self, GrantError> {
        let raw = Chain::compile(terms, SocketForm::Raw(link), compiler)?;
        // What only makes sense with a link header cannot be applied to cooked sockets: then
        // there are none in this session.
        let cooked = Chain::compile(terms, SocketForm::Cooked, compiler)
            .and_then(|chain| Ok((chain.translate()?, chain)));
        let cooked = match cooked {
            Ok(cooked) => Some(cooked),
            Err(
                error @ GrantError::Filter {
                    source: CompileError::Syntax { .. } | CompileError::Cooked(_),
                    ..
                },
            )
            | Err(error @ GrantError::Translate { .. }) => {
                tracing::debug!(%error, "no cooked sockets in this session");
                None
            }
            Err(error) => return Err(error),
        };
        let compared = match &cooked {
            Some((_, cooked)) if cooked_first => cooked,
            _ => &raw,
        };
        Ok(Self {
            raw: raw.translate()?,
            cut: compared.compare(outside)?,
            cooked: cooked.map(|(code, _)| code),
        })
    }
}

/// The filters for one form of socket.
struct Chain<'a> {
    form: SocketForm,
    filters: Vec<(&'a FilterTerm, Program)>,
}

impl<'a> Chain<'a> {
    fn compile(
        terms: &'a [FilterTerm],
        form: SocketForm,
        compiler: &Compiler,
    ) -> Result<Self, GrantError> {
        let mut filters = Vec::new();
        for term in terms {
            let (whose, origin) = match term.origin {
                FilterOrigin::Requested => ("the requested", Origin::Request),
                FilterOrigin::Policy => ("the policy's", Origin::Policy),
            };
            let program = compiler
                .compile_for(&term.expression, form, origin)
                .map_err(|source| GrantError::Filter {
                    whose,
                    expression: term.expression.clone(),
                    source,
                })?;
            // An empty one accepts every packet.
            filters.extend(program.map(|program| (term, program)));
        }
        Ok(Self { form, filters })
    }

    /// One part after the other: a packet passes if it passes each.
    fn translate(&self) -> Result<Vec<EbpfInsn>, GrantError> {
        let mut code = Vec::new();
        for (term, program) in &self.filters {
            let expression = || term.expression.clone();
            let seeing = if self.form == SocketForm::Raw(LinkType::EN10MB) {
                &see_vlan_tags(program).map_err(|source| GrantError::VlanTags {
                    expression: expression(),
                    source,
                })?
            } else {
                program
            };
            code.extend(translate(seeing).map_err(|source| GrantError::Translate {
                expression: expression(),
                source,
            })?);
        }
        Ok(code)
    }

    /// Whether the policy's filter takes anything from the requested one.
    ///
    /// On the programs as libpcap made them: what runs on a frame whose outer VLAN tag lies beside
    /// its bytes is the same program on the same frame with the tag put back, and a proof about
    /// every sequence of bytes is about that one too.
    fn compare(&self, outside: Outside) -> Result<Option<Cut>, GrantError> {
        let of = |origin| self.filters.iter().find(|(term, _)| term.origin == origin);
        let Some((asked, requested)) = of(FilterOrigin::Requested) else {
            return Ok(None);
        };
        let budget = Budget::default();
        if is_empty(requested, self.form, budget) == Emptiness::Empty {
            return Err(GrantError::MatchesNothing {
                expression: asked.expression.clone(),
            });
        }
        let Some((allowed, policy)) = of(FilterOrigin::Policy) else {
            return Ok(None);
        };
        let example = match prove(requested, policy, self.form, budget) {
            // Malformed and truncated packets are left out without a word.
            Containment::Contained | Containment::ContainedWellFormed { .. } => return Ok(None),
            Containment::NotContained { counterexample } => {
                Some(counterexample.in_words(self.form))
            }
            Containment::Unknown { why } => {
                tracing::info!(%why, "whether the filter stays within the policy's is not known");
                None
            }
        };
        let cut = Cut {
            requested: asked.expression.clone(),
            within: allowed.expression.clone(),
            example,
        };
        if let Ok(both) = compose(requested, policy)
            && is_empty(&both, self.form, budget) == Emptiness::Empty
        {
            return Err(GrantError::NothingLeft(cut));
        }
        match outside {
            Outside::Narrow => Ok(Some(cut)),
            Outside::Deny => Err(GrantError::Outside(cut)),
        }
    }
}
