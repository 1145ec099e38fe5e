//! Names and paths: which column or member an identifier means.

use sqlparser::ast::{AccessExpr, Expr as Ast, Ident, Subscript, Value};

use crate::error::{Code, Error};

/// A name as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) text: String,
    /// Quoted: capitals count.
    pub(super) is_exact: bool,
}

impl Name {
    pub(super) fn of(ident: &Ident) -> Self {
        Self { text: ident.value.clone(), is_exact: ident.quote_style.is_some() }
    }

    /// Whether it may mean `other`.
    pub(super) fn fits(&self, other: &str) -> bool {
        if self.is_exact || (self.text.is_ascii() && other.is_ascii()) {
            return self.text == other || (!self.is_exact && self.text.eq_ignore_ascii_case(other));
        }
        self.text.to_lowercase() == other.to_lowercase()
    }

    /// Which of some columns it means. One that is spelt the same goes first.
    pub(super) fn find<'a>(&self, columns: impl Iterator<Item = &'a str> + Clone) -> Result<Option<usize>, Error> {
        if let Some(at) = columns.clone().position(|column| column == self.text) {
            return Ok(Some(at));
        }
        let mut fitting = columns.enumerate().filter(|(_, column)| self.fits(column)).map(|(at, _)| at);
        let first = fitting.next();
        if fitting.next().is_some() {
            let message = format!(
                "Several columns are named `{}` but for their capitals: write the name in double quotes.",
                self.text
            );
            return Err(Error::new(Code::AmbiguousFieldName, message));
        }
        Ok(first)
    }

    /// Zero-based position of `_1`, `_2` and so on.
    pub(super) fn position(&self) -> Option<usize> {
        let number = self.text.strip_prefix('_')?.parse::<usize>().ok()?;
        number.checked_sub(1)
    }
}

/// A step from a value into it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// A member of an object.
    Key(Name),
    /// An element of a list.
    Index(usize),
    /// Every element (FROM only).
    Each,
    /// Every member's value (FROM only).
    EachMember,
}

impl Step {
    pub(super) fn key(&self) -> Option<&Name> {
        match self {
            Self::Key(name) => Some(name),
            _ => None,
        }
    }
}

/// The steps of an expression that is a path, `None` where it is not one. An identifier of an Ion literal is none.
pub(super) fn steps(expr: &Ast) -> Result<Option<Vec<Step>>, Error> {
    let mut steps = Vec::new();
    Ok(collect(expr, &mut steps)?.then_some(steps))
}

fn collect(expr: &Ast, steps: &mut Vec<Step>) -> Result<bool, Error> {
    match expr {
        Ast::Identifier(ident) if ident.quote_style != Some('`') => {
            steps.push(Step::Key(Name::of(ident)));
            Ok(true)
        }
        Ast::CompoundIdentifier(idents) => {
            steps.extend(idents.iter().map(|ident| Step::Key(Name::of(ident))));
            Ok(true)
        }
        Ast::CompoundFieldAccess { root, access_chain } => {
            if !collect(root, steps)? {
                return Ok(false);
            }
            for access in access_chain {
                match access {
                    AccessExpr::Dot(inner) => {
                        if !collect(inner, steps)? {
                            return Err(bad_step(expr));
                        }
                    }
                    AccessExpr::Subscript(Subscript::Index { index }) => steps.push(subscript(index, expr)?),
                    AccessExpr::Subscript(Subscript::Slice { .. }) => return Err(bad_step(expr)),
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn bad_step(path: &Ast) -> Error {
    let message = format!("`{path}` is not a path: its steps must be names and `[number]`.");
    Error::new(Code::ParseInvalidPathComponent, message)
}

fn subscript(index: &Ast, path: &Ast) -> Result<Step, Error> {
    match index {
        Ast::Value(value) => match &value.value {
            Value::Number(text, false) => text.parse().map(Step::Index).map_err(|_| bad_step(path)),
            Value::SingleQuotedString(text) => Ok(Step::Key(Name { text: text.clone(), is_exact: true })),
            _ => Err(bad_step(path)),
        },
        _ => Err(bad_step(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_without_capitals_unless_quoted() {
        let name = |text: &str, is_exact| Name { text: text.into(), is_exact };
        let columns = || ["Id", "city", "CITY", "City"].into_iter();
        assert_eq!(name("id", false).find(columns()).expect("one"), Some(0));
        assert_eq!(name("id", true).find(columns()).expect("none"), None);
        assert_eq!(name("City", false).find(columns()).expect("the same"), Some(3));
        assert_eq!(name("CiTy", false).find(columns()).expect_err("several").code, Code::AmbiguousFieldName);
        assert_eq!(name("_12", false).position(), Some(11));
        assert_eq!(name("_0", false).position(), None);
        assert_eq!(name("_x", false).position(), None);
    }
}
