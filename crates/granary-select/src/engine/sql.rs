//! From text to one SELECT over the object: tokens, the path behind `S3Object`, and what S3's SQL does not have.
//!
//! sqlparser parses. Two things of S3's dialect it does not know are taken out of the tokens before: the path with
//! wildcards in FROM, and `IS MISSING`, which travels on as `IS UNKNOWN` (that S3 does not have).

use sqlparser::ast::{
    Expr as Ast, GroupByExpr, Ident, LimitClause, Query, Select as AstSelect, SelectItem, SetExpr, Statement,
    TableFactor, Value,
};
use sqlparser::dialect::Dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};

use super::path::{Name, Step};
use crate::error::{Code, Error};

/// Tokens of an expression at most, blanks not counted: what is built of them recurses.
const TOKENS_MAX: usize = 20_000;

/// Parentheses in one another at most.
const DEPTH_MAX: usize = 60;

/// S3's lexical rules, and nothing of the syntaxes that the parser has beside.
#[derive(Debug)]
struct S3Dialect;

impl Dialect for S3Dialect {
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        // Back-quoted are Ion literals, of which timestamps are taken.
        ch == '"' || ch == '`'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || matches!(ch, '_' | '$')
    }
}

/// A SELECT, its parts as they were parsed.
#[derive(Debug)]
pub(super) struct Parsed {
    /// What is asked for; `None`: all of every record.
    pub(super) items: Option<Vec<(Ast, Option<Ident>)>>,
    /// Where the records are within what the object holds (JSON).
    pub(super) path: Vec<Step>,
    /// Whether FROM names a path at all (`S3Object[*]` alone is none).
    pub(super) alias: Option<Ident>,
    /// WHERE.
    pub(super) filter: Option<Ast>,
    /// LIMIT.
    pub(super) limit: Option<usize>,
}

fn structure(what: &str) -> Error {
    Error::new(
        Code::UnsupportedSqlStructure,
        format!("{what} is not supported: S3 Select has SELECT, FROM S3Object, WHERE and LIMIT."),
    )
}

/// Parses an expression of at most 256 KiB. Run it where the stack is deep.
pub(super) fn parse(text: &str) -> Result<Parsed, Error> {
    let mut tokens = tokens(text)?;
    let path = take_path(&mut tokens)?;
    mark_missing(&mut tokens);
    let statements = Parser::new(&S3Dialect)
        .with_recursion_limit(DEPTH_MAX)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|error| match error {
            ParserError::TokenizerError(text) => Error::new(Code::LexerInvalidChar, text),
            ParserError::ParserError(text) => {
                Error::new(Code::ParseUnexpectedToken, format!("The SQL expression cannot be parsed: {text}"))
            }
            ParserError::RecursionLimitExceeded => too_large(),
        })?;
    let [Statement::Query(query)] = <[Statement; 1]>::try_from(statements).map_err(|_| not_select())? else {
        return Err(not_select());
    };
    read(*query, path)
}

fn not_select() -> Error {
    Error::new(Code::ParseUnsupportedSelect, "The SQL expression must be one SELECT.")
}

pub(super) fn too_large() -> Error {
    Error::new(Code::MaxOperatorsExceeded, "The SQL expression has too many operators, or they are nested too deeply.")
}

fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, Error> {
    let all = Tokenizer::new(&S3Dialect, text).tokenize_with_location().map_err(|error| {
        let is_literal = error.message.contains("nterminated");
        Error::new(if is_literal { Code::LexerInvalidLiteral } else { Code::LexerInvalidChar }, error.to_string())
    })?;
    let tokens: Vec<_> = all.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    if tokens.len() > TOKENS_MAX { Err(too_large()) } else { Ok(tokens) }
}

fn is_keyword(token: Option<&TokenWithSpan>, keyword: Keyword) -> bool {
    matches!(token.map(|token| &token.token), Some(Token::Word(word)) if word.keyword == keyword && word.quote_style.is_none())
}

fn word(token: Option<&TokenWithSpan>) -> Option<&Word> {
    match token.map(|token| &token.token) {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn name(word: &Word) -> Name {
    Name { text: word.value.clone(), is_exact: word.quote_style.is_some() }
}

/// Takes the steps behind `FROM S3Object` out of the tokens.
fn take_path(tokens: &mut Vec<TokenWithSpan>) -> Result<Vec<Step>, Error> {
    // `EXTRACT(year FROM x)` and its like have one too, but none of S3Object.
    let is_object = |at: usize| word(tokens.get(at)).is_some_and(|word| word.value.eq_ignore_ascii_case("s3object"));
    let Some(from) = (0..tokens.len()).find(|&at| is_keyword(tokens.get(at), Keyword::FROM) && is_object(at + 1))
    else {
        return Ok(Vec::new());
    };
    let start = from + 2;
    let mut at = start;
    let mut steps = Vec::new();
    let bad = || {
        Error::new(
            Code::ParseInvalidPathComponent,
            "The path behind S3Object in FROM must be made of `.name`, `[*]`, `[number]` and `.*`.",
        )
    };
    let token = |at: usize| tokens.get(at).map(|token| &token.token);
    loop {
        match (token(at), token(at + 1), token(at + 2)) {
            (Some(Token::LBracket), Some(Token::Mul), Some(Token::RBracket)) => {
                steps.push(Step::Each);
                at += 3;
            }
            (Some(Token::LBracket), Some(Token::Number(number, false)), Some(Token::RBracket)) => {
                steps.push(Step::Index(number.parse().map_err(|_| bad())?));
                at += 3;
            }
            (Some(Token::LBracket), Some(Token::SingleQuotedString(key)), Some(Token::RBracket)) => {
                steps.push(Step::Key(Name { text: key.clone(), is_exact: true }));
                at += 3;
            }
            (Some(Token::Period), Some(Token::Word(word)), _) => {
                steps.push(Step::Key(name(word)));
                at += 2;
            }
            (Some(Token::Period), Some(Token::Mul), _) => {
                steps.push(Step::EachMember);
                at += 2;
            }
            (Some(Token::LBracket | Token::Period), ..) => return Err(bad()),
            _ => break,
        }
    }
    tokens.drain(start..at);
    // The object is the list of its root values, of which `[*]` is every one.
    match steps.first() {
        None => {}
        Some(Step::Each) => {
            steps.remove(0);
        }
        Some(_) => {
            let message = "A path in FROM begins with `S3Object[*]`: what the object holds is a list of values.";
            return Err(Error::new(Code::InvalidKeyPath, message));
        }
    }
    Ok(steps)
}

/// `IS [NOT] MISSING` as `IS [NOT] UNKNOWN`.
fn mark_missing(tokens: &mut [TokenWithSpan]) {
    for at in 1..tokens.len() {
        let is_missing = word(tokens.get(at))
            .is_some_and(|word| word.quote_style.is_none() && word.value.eq_ignore_ascii_case("missing"));
        let follows_is = is_keyword(tokens.get(at - 1), Keyword::IS)
            || (at > 1 && is_keyword(tokens.get(at - 1), Keyword::NOT) && is_keyword(tokens.get(at - 2), Keyword::IS));
        if is_missing && follows_is {
            tokens[at].token = Token::make_keyword("UNKNOWN");
        }
    }
}

fn read(query: Query, path: Vec<Step>) -> Result<Parsed, Error> {
    let Query { with, body, order_by, limit_clause, fetch, locks, for_clause, settings, format_clause, pipe_operators } =
        query;
    let extras = [
        (with.is_some(), "WITH"),
        (order_by.is_some(), "ORDER BY"),
        (fetch.is_some(), "FETCH"),
        (!locks.is_empty() || for_clause.is_some(), "FOR"),
        (settings.is_some(), "SETTINGS"),
        (format_clause.is_some(), "FORMAT"),
        (!pipe_operators.is_empty(), "`|>`"),
    ];
    if let Some((_, what)) = extras.into_iter().find(|(is_there, _)| *is_there) {
        return Err(structure(what));
    }
    let limit = limit_clause.map(limit).transpose()?;
    let select = match *body {
        SetExpr::Select(select) => *select,
        SetExpr::SetOperation { op, .. } => return Err(structure(&op.to_string())),
        _ => return Err(not_select()),
    };
    check_select(&select)?;
    let (alias, from_path_alias) = (alias(&select)?, path.last().and_then(Step::key).cloned());
    let alias = alias.or_else(|| {
        from_path_alias.map(|name| Ident {
            value: name.text,
            quote_style: name.is_exact.then_some('"'),
            span: sqlparser::tokenizer::Span::empty(),
        })
    });
    let items = items(select.projection, alias.as_ref())?;
    Ok(Parsed { items, path, alias, filter: select.selection, limit })
}

fn check_select(select: &AstSelect) -> Result<(), Error> {
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, with) if by.is_empty() && with.is_empty());
    let extras = [
        (select.distinct.is_some(), "DISTINCT"),
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "INTO"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.connect_by.is_empty(), "CONNECT BY"),
        (grouped, "GROUP BY"),
        (!select.cluster_by.is_empty(), "CLUSTER BY"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
        (!select.sort_by.is_empty(), "SORT BY"),
        (select.having.is_some(), "HAVING"),
        (!select.named_window.is_empty(), "WINDOW"),
        (select.qualify.is_some(), "QUALIFY"),
        (select.exclude.is_some(), "EXCLUDE"),
        (select.value_table_mode.is_some(), "SELECT AS"),
    ];
    match extras.into_iter().find(|(is_there, _)| *is_there) {
        Some((_, what)) => Err(structure(what)),
        None => Ok(()),
    }
}

fn limit(clause: LimitClause) -> Result<usize, Error> {
    let LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by } = clause else {
        return Err(structure("OFFSET"));
    };
    let number = match &limit {
        Ast::Value(value) if limit_by.is_empty() => match &value.value {
            Value::Number(text, false) => text.parse().ok(),
            _ => None,
        },
        _ => None,
    };
    let message = || format!("LIMIT must be a whole number, not `{limit}`.");
    number.ok_or_else(|| Error::new(Code::EvaluatorNegativeLimit, message()))
}

/// The object's alias; there must be the one object and nothing else.
fn alias(select: &AstSelect) -> Result<Option<Ident>, Error> {
    let join = || Error::new(Code::ParseMalformedJoin, "FROM must name S3Object alone: S3 Select has no joins.");
    let [from] = select.from.as_slice() else {
        return Err(if select.from.is_empty() {
            Error::new(Code::ParseSelectMissingFrom, "The SQL expression has no FROM: it must be FROM S3Object.")
        } else {
            join()
        });
    };
    if !from.joins.is_empty() {
        return Err(join());
    }
    let TableFactor::Table { name, alias, args: None, sample: None, version: None, .. } = &from.relation else {
        return Err(structure("A query within FROM"));
    };
    if name.0.len() != 1 || !name.to_string().eq_ignore_ascii_case("s3object") {
        let message = format!("FROM must name S3Object, not `{name}`.");
        return Err(Error::new(Code::InvalidDataSource, message));
    }
    match alias {
        None => Ok(None),
        Some(alias) if alias.columns.is_empty() => Ok(Some(alias.name.clone())),
        Some(_) => Err(structure("An alias with columns")),
    }
}

/// Whether a name that stands before a column is the object's.
pub(super) fn is_object(ident: &Ident, alias: Option<&Ident>) -> bool {
    ident.value.eq_ignore_ascii_case("s3object")
        || alias.is_some_and(|alias| {
            alias.value == ident.value
                || (ident.quote_style.is_none() && alias.value.eq_ignore_ascii_case(&ident.value))
        })
}

type Items = Option<Vec<(Ast, Option<Ident>)>>;

fn items(projection: Vec<SelectItem>, alias: Option<&Ident>) -> Result<Items, Error> {
    let is_alone = projection.len() == 1;
    let mut items = Vec::with_capacity(projection.len());
    for item in projection {
        match item {
            SelectItem::UnnamedExpr(expr) => items.push((expr, None)),
            SelectItem::ExprWithAlias { expr, alias } => items.push((expr, Some(alias))),
            SelectItem::ExprWithAliases { .. } => return Err(structure("A list of aliases")),
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) if !is_alone => {
                let message = "`*` must be all that is selected.";
                return Err(Error::new(Code::ParseAsteriskIsNotAloneInSelectList, message));
            }
            SelectItem::Wildcard(options) if options.to_string().is_empty() => return Ok(None),
            SelectItem::QualifiedWildcard(kind, options) if options.to_string().is_empty() => {
                let text = kind.to_string();
                let prefix = Ident::new(text.trim_end_matches(".*"));
                if is_object(&prefix, alias) {
                    return Ok(None);
                }
                let message = format!("`{text}` must be `*` or the object's alias with `.*`.");
                return Err(Error::new(Code::InvalidTableAlias, message));
            }
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => return Err(structure("`*` with options")),
        }
    }
    Ok(Some(items))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Code {
        parse(text).expect_err(text).code
    }

    #[test]
    fn paths_behind_the_object_are_steps() {
        let query = parse("select s.a from s3object[*].Rules[*].\"x y\"[3].* as s where s.b is not missing limit 7")
            .expect("parses");
        let key = |text: &str, is_exact| Step::Key(Name { text: text.into(), is_exact });
        assert_eq!(query.path, [key("Rules", false), Step::Each, key("x y", true), Step::Index(3), Step::EachMember]);
        assert_eq!(query.limit, Some(7));
        assert_eq!(query.alias.map(|alias| alias.value), Some("s".to_owned()));
        assert!(matches!(query.filter, Some(Ast::IsNotUnknown(_))));
        let whole = parse("SELECT * FROM S3Object[*]").expect("parses");
        assert!(whole.path.is_empty() && whole.items.is_none() && whole.alias.is_none());
        assert!(parse("SELECT s.* FROM S3Object s").expect("parses").items.is_none());
        // The last step of a path is the alias where no other is given.
        assert_eq!(
            parse("SELECT id FROM S3Object[*].a[*].id").expect("parses").alias.map(|alias| alias.value),
            Some("id".to_owned())
        );
    }

    #[test]
    fn what_s3_has_not_is_refused_by_name() {
        for (text, expected) in [
            ("SELECT a FROM S3Object GROUP BY a", Code::UnsupportedSqlStructure),
            ("SELECT a FROM S3Object ORDER BY a", Code::UnsupportedSqlStructure),
            ("SELECT DISTINCT a FROM S3Object", Code::UnsupportedSqlStructure),
            ("SELECT a FROM S3Object UNION SELECT b FROM S3Object", Code::UnsupportedSqlStructure),
            ("SELECT a FROM (SELECT * FROM S3Object)", Code::UnsupportedSqlStructure),
            ("SELECT a FROM S3Object LIMIT 5 OFFSET 2", Code::UnsupportedSqlStructure),
            ("SELECT a FROM S3Object s, S3Object t", Code::ParseMalformedJoin),
            ("SELECT a FROM S3Object s JOIN S3Object t ON s.a = t.a", Code::ParseMalformedJoin),
            ("SELECT a FROM passwd", Code::InvalidDataSource),
            ("SELECT 1", Code::ParseSelectMissingFrom),
            ("SELECT *, a FROM S3Object", Code::ParseAsteriskIsNotAloneInSelectList),
            ("SELECT t.* FROM S3Object s", Code::InvalidTableAlias),
            ("DELETE FROM S3Object", Code::ParseUnsupportedSelect),
            ("SELECT a FROM S3Object; SELECT b FROM S3Object", Code::ParseUnsupportedSelect),
            ("SELECT a FROM S3Object LIMIT -1", Code::EvaluatorNegativeLimit),
            ("SELECT a FROM S3Object.a", Code::InvalidKeyPath),
            ("SELECT a FROM S3Object[*][x]", Code::ParseInvalidPathComponent),
            ("SELECT a FRM S3Object", Code::ParseUnexpectedToken),
            ("SELECT 'a FROM S3Object", Code::LexerInvalidLiteral),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let deep = format!("SELECT {}a{} FROM S3Object", "(".repeat(200), ")".repeat(200));
        assert_eq!(code(&deep), Code::MaxOperatorsExceeded);
        let wide = format!("SELECT a FROM S3Object WHERE a{}", " OR a".repeat(TOKENS_MAX));
        assert_eq!(code(&wide), Code::MaxOperatorsExceeded);
    }
}
