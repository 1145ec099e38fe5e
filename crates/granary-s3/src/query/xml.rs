//! XML answers of the query interfaces.

/// A document that grows.
#[derive(Default)]
pub(crate) struct Xml(String);

impl Xml {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// `<name>text</name>`.
    pub(crate) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.0.push_str(&format!("<{name}>"));
        for c in text.chars() {
            match c {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                // XML 1.0 has no other control characters.
                c if c.is_control() && !matches!(c, '\n' | '\t' | '\r') => self.0.push('\u{fffd}'),
                c => self.0.push(c),
            }
        }
        self.0.push_str(&format!("</{name}>"));
        self
    }

    /// `<name>...</name>`.
    pub(crate) fn within(&mut self, name: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.push_str(&format!("<{name}>"));
        fill(self);
        self.0.push_str(&format!("</{name}>"));
        self
    }

    /// `<name><member>...</member>...</name>`, and that there is no more.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        all: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.within(name, |xml| {
            for one in all {
                xml.within("member", |xml| fill(xml, one));
            }
        })
    }

    /// A complete list's end mark.
    pub(crate) fn whole(&mut self) -> &mut Self {
        self.text("IsTruncated", "false")
    }

    /// Text of a `<member>` in a list of plain texts.
    pub(crate) fn raw(&mut self, text: &str) -> &mut Self {
        let mut inner = Self::new();
        inner.text("x", text);
        self.0.push_str(&inner.0[3..inner.0.len() - 4]);
        self
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// A whole answer.
pub(crate) fn answer(namespace: &str, action: &str, result: &str, request_id: &str) -> String {
    let result = if result.is_empty() { String::new() } else { format!("<{action}Result>{result}</{action}Result>") };
    format!(
        "<{action}Response xmlns=\"{namespace}\">{result}<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    )
}

/// A whole error.
pub(crate) fn error(namespace: &str, kind: &str, code: &str, message: &str, request_id: &str) -> String {
    let mut xml = Xml::new();
    xml.within("Error", |xml| {
        xml.text("Type", kind).text("Code", code).text("Message", message);
    });
    format!(
        "<ErrorResponse xmlns=\"{namespace}\">{}<RequestId>{request_id}</RequestId></ErrorResponse>",
        xml.into_string()
    )
}
