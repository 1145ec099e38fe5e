//! Whether a licence expression can be satisfied with the licences that are allowed. SPDX expressions
//! (<https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>), and the older `A/B` for `A OR B`.

/// Whether some choice among `expression`'s alternatives needs only licences in `allowed`.
pub(crate) fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    alternatives(&mut rest, allowed) && rest.is_empty()
}

fn alternatives(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut ok = conjunction(rest, allowed);
    while let ["OR", tail @ ..] = *rest {
        *rest = tail;
        ok |= conjunction(rest, allowed);
    }
    ok
}

fn conjunction(rest: &mut &[&str], allowed: &[String]) -> bool {
    let mut ok = licence(rest, allowed);
    while let ["AND", tail @ ..] = *rest {
        *rest = tail;
        ok &= licence(rest, allowed);
    }
    ok
}

fn licence(rest: &mut &[&str], allowed: &[String]) -> bool {
    let is_allowed = |name: &str| allowed.iter().any(|a| a == name);
    match *rest {
        ["(", tail @ ..] => {
            *rest = tail;
            let ok = alternatives(rest, allowed);
            let closed = matches!(*rest, [")", ..]);
            *rest = rest.get(1..).unwrap_or_default();
            ok && closed
        }
        [name, "WITH", exception, tail @ ..] => {
            *rest = tail;
            is_allowed(&format!("{name} WITH {exception}"))
        }
        [name, tail @ ..] => {
            *rest = tail;
            is_allowed(name)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        let allowed: Vec<String> =
            ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(String::from).into();
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(satisfied(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "(GPL-3.0 OR AGPL-3.0) AND MIT", "MIT WITH X"] {
            assert!(!satisfied(bad, &allowed), "{bad}");
        }
    }
}
