//! Patterns of policies: `*`, `?`, and variables such as `${aws:username}`.
//!
//! Guarantees: matching takes at most pattern × text steps and allocates only where a variable has to be put in.
//! A variable without a value matches nothing.

use super::context::{Env, Key};

/// How letter case counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Counts,
    Ignored,
}

/// One step of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`: one character.
    One,
    /// `*`: any number of characters.
    Any,
}

/// A pattern without variables.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Glob {
    All,
    Exact(Box<str>),
    Prefix(Box<str>),
    General(Box<[Token]>),
}

/// A run of a pattern with variables.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Tokens(Vec<Token>),
    Variable { key: Key, default: Option<String> },
}

/// A pattern, prepared once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Fixed(Glob),
    Variable(Vec<Piece>),
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatternError {
    #[error("`${{` without a closing `}}`")]
    Open,
    #[error("`${{{0}}}` is not a policy variable")]
    Variable(String),
}

impl Pattern {
    /// Prepares a pattern; variables are read where `variables` (policies of version 2012-10-17).
    pub(crate) fn new(text: &str, variables: bool) -> Result<Self, PatternError> {
        Self::build(text, variables, true)
    }

    /// The text itself, without wildcards (`StringEquals`); variables are read all the same.
    pub(crate) fn literal(text: &str, variables: bool) -> Result<Self, PatternError> {
        Self::build(text, variables, false)
    }

    fn build(text: &str, variables: bool, wildcards: bool) -> Result<Self, PatternError> {
        let mut pieces = vec![Piece::Tokens(Vec::new())];
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if variables && rest.starts_with("${") {
                let end = rest.find('}').ok_or(PatternError::Open)?;
                match &rest[2..end] {
                    escape @ ("*" | "?" | "$") => push(&mut pieces, escape.bytes().map(Token::Byte)),
                    variable => {
                        let (name, default) = match variable.split_once(',') {
                            Some((name, default)) => (name.trim(), Some(default.trim())),
                            None => (variable.trim(), None),
                        };
                        let default = match default {
                            Some(text) => Some(unquoted(text).ok_or_else(|| PatternError::Variable(variable.into()))?),
                            None => None,
                        };
                        let key = Key::parse(name).ok_or_else(|| PatternError::Variable(variable.into()))?;
                        pieces.push(Piece::Variable { key, default });
                        pieces.push(Piece::Tokens(Vec::new()));
                    }
                }
                rest = &rest[end + 1..];
                continue;
            }
            match next {
                '*' if wildcards => push(&mut pieces, [Token::Any]),
                '?' if wildcards => push(&mut pieces, [Token::One]),
                other => {
                    let mut bytes = [0; 4];
                    push(&mut pieces, other.encode_utf8(&mut bytes).bytes().map(Token::Byte));
                }
            }
            rest = &rest[next.len_utf8()..];
        }
        if pieces.len() > 1 {
            return Ok(Self(Kind::Variable(pieces)));
        }
        let Some(Piece::Tokens(tokens)) = pieces.pop() else { return Ok(Self(Kind::Fixed(Glob::Exact("".into())))) };
        Ok(Self(Kind::Fixed(Glob::of(tokens))))
    }

    /// Matches everything, whatever the request.
    pub(crate) fn is_all(&self) -> bool {
        matches!(&self.0, Kind::Fixed(Glob::All))
    }

    /// The text, where the pattern has neither wildcards nor variables.
    pub(crate) fn exact(&self) -> Option<&str> {
        match &self.0 {
            Kind::Fixed(Glob::Exact(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether `text` is meant.
    pub(crate) fn matches(&self, text: &str, case: Case, env: &Env<'_>) -> bool {
        match &self.0 {
            Kind::Fixed(glob) => glob.matches(text, case),
            Kind::Variable(pieces) => {
                let mut tokens = Vec::with_capacity(64);
                for piece in pieces {
                    match piece {
                        Piece::Tokens(more) => tokens.extend_from_slice(more),
                        Piece::Variable { key, default } => {
                            let values = env.values(key);
                            // A key with several values has no one text to put in.
                            let value = match (values.len(), default) {
                                (1, _) => &*values[0],
                                (0, Some(default)) => default,
                                _ => return false,
                            };
                            tokens.extend(value.bytes().map(Token::Byte));
                        }
                    }
                }
                general(&tokens, text.as_bytes(), case)
            }
        }
    }

    /// Whether its text begins with `start`, letter by letter, before any wildcard or variable.
    pub(crate) fn begins_with(&self, start: &str) -> bool {
        let bytes = |tokens: &[Token]| {
            let mut tokens = tokens.iter();
            start.bytes().all(|byte| tokens.next() == Some(&Token::Byte(byte)))
        };
        match &self.0 {
            Kind::Fixed(Glob::All) => false,
            Kind::Fixed(Glob::Exact(text) | Glob::Prefix(text)) => text.starts_with(start),
            Kind::Fixed(Glob::General(tokens)) => bytes(tokens),
            Kind::Variable(pieces) => matches!(pieces.first(), Some(Piece::Tokens(tokens)) if bytes(tokens)),
        }
    }

    /// [`Pattern::matches`] for patterns that cannot have variables.
    pub(crate) fn matches_plain(&self, text: &str, case: Case) -> bool {
        match &self.0 {
            Kind::Fixed(glob) => glob.matches(text, case),
            Kind::Variable(_) => false,
        }
    }

    /// The keys whose values it takes in.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        let pieces: &[Piece] = match &self.0 {
            Kind::Fixed(_) => &[],
            Kind::Variable(pieces) => pieces,
        };
        pieces.iter().filter_map(|piece| match piece {
            Piece::Tokens(_) => None,
            Piece::Variable { key, .. } => Some(key),
        })
    }
}

fn push(pieces: &mut [Piece], tokens: impl IntoIterator<Item = Token>) {
    if let Some(Piece::Tokens(last)) = pieces.last_mut() {
        for token in tokens {
            // `**` is `*`.
            if token != Token::Any || last.last() != Some(&Token::Any) {
                last.push(token);
            }
        }
    }
}

fn unquoted(text: &str) -> Option<String> {
    text.strip_prefix('\'')?.strip_suffix('\'').map(str::to_owned)
}

impl Glob {
    fn of(tokens: Vec<Token>) -> Self {
        let bytes: Vec<u8> = tokens
            .iter()
            .filter_map(|token| match token {
                Token::Byte(byte) => Some(*byte),
                _ => None,
            })
            .collect();
        let wild = tokens.len() - bytes.len();
        let text = String::from_utf8(bytes).map(String::into_boxed_str);
        match (wild, tokens.last(), text) {
            (1, Some(Token::Any), _) if tokens.len() == 1 => Self::All,
            (0, _, Ok(text)) => Self::Exact(text),
            (1, Some(Token::Any), Ok(text)) => Self::Prefix(text),
            _ => Self::General(tokens.into_boxed_slice()),
        }
    }

    fn matches(&self, text: &str, case: Case) -> bool {
        match (self, case) {
            (Self::All, _) => true,
            (Self::Exact(exact), Case::Counts) => **exact == *text,
            (Self::Exact(exact), Case::Ignored) => exact.eq_ignore_ascii_case(text),
            (Self::Prefix(prefix), Case::Counts) => text.starts_with(&**prefix),
            (Self::Prefix(prefix), Case::Ignored) => {
                text.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
            }
            (Self::General(tokens), case) => general(tokens, text.as_bytes(), case),
        }
    }
}

/// Greedy matching that goes back to the last `*` only: pattern × text steps at most.
fn general(tokens: &[Token], text: &[u8], case: Case) -> bool {
    let same = |a: u8, b: u8| a == b || (case == Case::Ignored && a.eq_ignore_ascii_case(&b));
    let (mut t, mut p) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match tokens.get(p) {
            Some(Token::Any) => {
                p += 1;
                back = Some((p, t));
                continue;
            }
            Some(Token::Byte(byte)) if text.get(t).is_some_and(|b| same(*b, *byte)) => {
                (t, p) = (t + 1, p + 1);
                continue;
            }
            Some(Token::One) if t < text.len() => {
                t += 1;
                // The rest of a character's bytes.
                while text.get(t).is_some_and(|b| b & 0xc0 == 0x80) {
                    t += 1;
                }
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            _ => {}
        }
        match &mut back {
            Some((after, from)) if *from < text.len() => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern, true).unwrap().matches_plain(text, Case::Counts)
    }

    #[test]
    fn wildcards() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("*", "anything/at/all", true),
            ("a*", "a", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "aéc", true),
            ("??", "é", false),
            ("*??", "é", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("a**b", "ab", true),
            ("exact", "exact", true),
            ("exact", "Exact", false),
            ("${*}", "*", true),
            ("${*}", "x", false),
            ("a${?}b${$}", "a?b$", true),
            ("arn:aws:s3:::b/*", "arn:aws:s3:::b/k/l", true),
            ("arn:aws:s3:::b/*", "arn:aws:s3:::b", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(plain(pattern, text), want, "{pattern} ~ {text}");
        }
        let action = Pattern::new("s3:get*", true).unwrap();
        assert!(action.matches_plain("s3:GetObject", Case::Ignored));
        assert!(!action.matches_plain("s3:GetObject", Case::Counts));
    }

    #[test]
    fn beginnings() {
        for (pattern, want) in [
            ("arn:b", true),
            ("arn:b/*", true),
            ("arn:b*", true),
            ("arn:b/?*", true),
            ("arn:b/${aws:username}", true),
            ("*", false),
            ("arn:*", false),
            ("arn:?", false),
            ("arn:${aws:username}", false),
            ("*arn:b", false),
            ("arn:", false),
        ] {
            assert_eq!(Pattern::new(pattern, true).unwrap().begins_with("arn:b"), want, "{pattern}");
        }
    }

    #[test]
    fn hard_patterns_end_soon() {
        let pattern = Pattern::new(&"a*".repeat(400), true).unwrap();
        assert!(!pattern.matches_plain(&"ab".repeat(2_000).replace('a', "b"), Case::Counts));
        let pattern = Pattern::new(&format!("{}b", "*a".repeat(300)), true).unwrap();
        assert!(!pattern.matches_plain(&"a".repeat(2_000), Case::Counts));
    }

    #[test]
    fn malformed_variables() {
        assert_eq!(Pattern::new("a${aws:username", true), Err(PatternError::Open));
        assert!(matches!(Pattern::new("${nonsense}", true), Err(PatternError::Variable(_))));
        assert!(Pattern::new("${nonsense}", false).is_ok());
        assert!(Pattern::new("${aws:username, 'nobody'}", true).is_ok());
        assert!(Pattern::new("${aws:username, nobody}", true).is_err());
    }

    #[test]
    fn literals_take_wildcards_as_they_are() {
        let literal = Pattern::literal("a*", true).unwrap();
        assert!(literal.matches_plain("a*", Case::Counts) && !literal.matches_plain("ab", Case::Counts));
    }
}
