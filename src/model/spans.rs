//! Positions of rows, columns and elements, as runs.

use std::fmt;
use std::ops::{Deref, DerefMut, Range};

/// `len` positions from `start` on, each `step` behind the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First position.
    pub start: usize,
    /// How many.
    pub len: usize,
    /// Distance, at least 1.
    pub step: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, len: range.len(), step: 1 }
    }
}

/// As the range it is, with its step where that is not 1: part of names that are kept from save to
/// save.
impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end())?;
        if self.step == 1 { Ok(()) } else { write!(f, ":{}", self.step) }
    }
}

impl Span {
    /// One behind the last position; the start where there is none.
    #[must_use]
    pub fn end(&self) -> usize {
        self.len.checked_sub(1).map_or(self.start, |last| self.start + last * self.step + 1)
    }

    /// All positions.
    pub fn positions(&self) -> impl Iterator<Item = usize> + use<> {
        let Self { start, len, step } = *self;
        (0..len).map(move |i| start + i * step)
    }

    /// The same positions further on.
    pub(super) fn shifted(self, by: usize) -> Self {
        Self { start: self.start + by, ..self }
    }
}

/// Spans in order. One is the rule, and takes no memory of its own: every matrix has two such lists.
#[derive(Clone, PartialEq, Eq)]
pub struct Spans(Inner);

#[derive(Clone, PartialEq, Eq)]
enum Inner {
    One(Span),
    /// None, or more than one.
    Many(Box<[Span]>),
}

impl From<Vec<Span>> for Spans {
    fn from(spans: Vec<Span>) -> Self {
        match spans.as_slice() {
            [one] => Self(Inner::One(*one)),
            _ => Self(Inner::Many(spans.into())),
        }
    }
}

impl From<Range<usize>> for Spans {
    fn from(range: Range<usize>) -> Self {
        Self(Inner::One(range.into()))
    }
}

impl FromIterator<Span> for Spans {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        spans.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> IntoIterator for &'a Spans {
    type Item = &'a Span;
    type IntoIter = std::slice::Iter<'a, Span>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Deref for Spans {
    type Target = [Span];
    fn deref(&self) -> &[Span] {
        match &self.0 {
            Inner::One(span) => std::slice::from_ref(span),
            Inner::Many(spans) => spans,
        }
    }
}

impl DerefMut for Spans {
    fn deref_mut(&mut self) -> &mut [Span] {
        match &mut self.0 {
            Inner::One(span) => std::slice::from_mut(span),
            Inner::Many(spans) => spans,
        }
    }
}

/// As that of any other list: part of names that are kept from save to save.
impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().collect::<Vec<_>>().fmt(f)
    }
}
