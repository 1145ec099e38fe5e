//! `granary user`, `group`, `key` and `policy`: requests to a running node, and what they show.

use std::io::{Read as _, Write as _};
use std::path::Path;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::admin::client::{Client, ClientError};
use crate::cli_access::{Common, GroupCommand, KeyCreate, PolicyCommand, UserCommand, WhichKey, Whom};

type Result<T> = std::result::Result<T, ClientError>;

/// Bytes of a file with a policy or a secret.
const FILE_BYTES_MAX: u64 = 64 * 1024;

fn ask(common: &Common, body: &Value) -> Result<Value> {
    let client = Client::new(&common.node)?;
    let answer = client.request("POST", "/admin/v1/access", body)?;
    serde_json::from_slice(&answer)
        .map_err(|error| ClientError::Garbled { address: client.address(), why: error.to_string() })
}

fn show(common: &Common, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<()> {
    let out = if common.json { format!("{value:#}\n") } else { text(value) };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(out.as_bytes())?;
    Ok(stdout.flush()?)
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |source: std::io::Error| {
        ClientError::Output(std::io::Error::new(source.kind(), format!("{}: {source}", path.display())))
    };
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    }
    Ok(text)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn words(value: &Value) -> String {
    let all: Vec<&str> = value.as_array().into_iter().flatten().map(word).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

/// Columns as wide as their widest entry.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|n| rows.iter().map(|row| row[n].len()).chain([head[n].len()]).max().unwrap_or(0))
        .collect();
    let line = |row: Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let head = line(head.iter().map(|name| (*name).to_owned()).collect());
    rows.into_iter().map(line).fold(head, |all, row| all + &row)
}

/// `granary user`.
pub(crate) fn user(command: &UserCommand) -> Result<()> {
    match command {
        UserCommand::Create { name, account, common } => {
            let user = ask(common, &json!({ "do": "user-create", "name": name, "account": account }))?;
            show(common, &user, |user| {
                format!(
                    "user {} of account {} ({})\nit may do nothing yet: granary policy attach readwrite --user {name}\n",
                    word(&user["name"]),
                    word(&user["account"]),
                    word(&user["account_name"])
                )
            })
        }
        UserCommand::List { common } => {
            let users = ask(common, &json!({ "do": "user-list" }))?["users"].take();
            show(common, &users, |users| {
                let row = |user: &Value| {
                    vec![
                        word(&user["name"]).to_owned(),
                        format!("{} ({})", word(&user["account"]), word(&user["account_name"])),
                        words(&user["policies"]),
                        words(&user["groups"]),
                        words(&user["keys"]),
                    ]
                };
                let rows = users.as_array().into_iter().flatten().map(row).collect();
                table(&["USER", "ACCOUNT", "POLICIES", "GROUPS", "KEYS"], rows)
            })
        }
        UserCommand::Delete { name, common } => {
            let done = ask(common, &json!({ "do": "user-delete", "name": name }))?;
            show(common, &done, |_| format!("user {name} is deleted, with its access keys\n"))
        }
    }
}

/// `granary group`.
pub(crate) fn group(command: &GroupCommand) -> Result<()> {
    let (what, name, user, common) = match command {
        GroupCommand::Create { name, common } => ("group-create", name, None, common),
        GroupCommand::Delete { name, common } => ("group-delete", name, None, common),
        GroupCommand::Add { name, user, common } => ("group-add", name, Some(user), common),
        GroupCommand::Remove { name, user, common } => ("group-remove", name, Some(user), common),
        GroupCommand::List { common } => {
            let groups = ask(common, &json!({ "do": "group-list" }))?["groups"].take();
            return show(common, &groups, |groups| {
                let row = |group: &Value| {
                    vec![word(&group["name"]).to_owned(), words(&group["policies"]), words(&group["members"])]
                };
                table(&["GROUP", "POLICIES", "MEMBERS"], groups.as_array().into_iter().flatten().map(row).collect())
            });
        }
    };
    let done = ask(common, &json!({ "do": what, "name": name, "user": user }))?;
    show(common, &done, |_| match (what, user) {
        ("group-create", _) => format!("group {name}\n"),
        ("group-delete", _) => format!("group {name} is deleted\n"),
        ("group-add", Some(user)) => format!("user {user} is in group {name}\n"),
        (_, Some(user)) => format!("user {user} is no longer in group {name}\n"),
        _ => String::new(),
    })
}

/// `granary key create`.
pub(crate) fn key_create(args: &KeyCreate) -> Result<()> {
    let secret = args.secret_key_file.as_deref().map(read).transpose()?;
    let policy = args.policy_file.as_deref().map(read).transpose()?;
    let body = json!({
        "do": "key-create",
        "user": args.user,
        "access_key": args.access_key,
        "secret_key": secret.as_ref().map(|secret| secret.trim()),
        "expires": args.expires,
        "service_account": args.service_account,
        "policy": policy.as_ref().map(|policy| policy.as_str()),
    });
    let key = ask(&args.common, &body)?;
    show(&args.common, &key, |key| {
        let expires = key["expires"].as_str().map(|at| format!("# expires {at}\n")).unwrap_or_default();
        if key["brought_along"] == true {
            return format!("{expires}access key {} of user {}\n", word(&key["access_key"]), word(&key["user"]));
        }
        format!(
            "# of user {}; the secret is shown this once\n{expires}export AWS_ACCESS_KEY_ID={}\nexport AWS_SECRET_ACCESS_KEY={}\n",
            word(&key["user"]),
            word(&key["access_key"]),
            word(&key["secret_key"])
        )
    })
}

/// `granary key list`.
pub(crate) fn key_list(user: Option<&str>, common: &Common) -> Result<()> {
    let keys = ask(common, &json!({ "do": "key-list", "user": user }))?["keys"].take();
    show(common, &keys, |keys| {
        let row = |key: &Value| {
            ["access_key", "user", "status", "created", "expires", "last_used", "service_account"]
                .map(|name| word(&key[name]).to_owned())
                .to_vec()
        };
        let rows = keys.as_array().into_iter().flatten().map(row).collect();
        table(&["ACCESS KEY", "USER", "STATUS", "CREATED", "EXPIRES", "LAST USED", "SERVICE ACCOUNT"], rows)
    })
}

/// `granary key disable`, `enable` and `delete`.
pub(crate) fn key_change(what: &str, which: &WhichKey) -> Result<()> {
    let access_key = which.key.as_deref().or(which.access_key.as_deref());
    let body = json!({ "do": format!("key-{what}"), "access_key": access_key, "user": which.user });
    let done = ask(&which.common, &body)?;
    show(&which.common, &done, |done| format!("access key {} is {what}d\n", word(&done["access_key"])))
}

fn give(what: &str, policy: &str, whom: &Whom, common: &Common) -> Result<()> {
    let body = json!({ "do": format!("policy-{what}"), "policy": policy, "user": whom.user, "group": whom.group });
    let done = ask(common, &body)?;
    let verb = if what == "attach" { "has" } else { "no longer has" };
    show(common, &done, |done| format!("{} {verb} policy {policy}\n", word(&done["to"])))
}

/// `granary policy`.
pub(crate) fn policy(command: &PolicyCommand) -> Result<()> {
    match command {
        PolicyCommand::Attach { policy, whom, common } => give("attach", policy, whom, common),
        PolicyCommand::Detach { policy, whom, common } => give("detach", policy, whom, common),
        PolicyCommand::Put { name, file, common } => {
            let document = read(file)?;
            let put = ask(common, &json!({ "do": "policy-put", "name": name, "document": document.as_str() }))?;
            show(common, &put, |put| format!("policy {name}, version {}: {}\n", put["version"], word(&put["arn"])))
        }
        PolicyCommand::List { common } => {
            let policies = ask(common, &json!({ "do": "policy-list" }))?["policies"].take();
            show(common, &policies, |policies| {
                let row = |policy: &Value| {
                    let kind = if policy["built_in"] == true { "built in" } else { "own" };
                    let names = [word(&policy["name"]), kind].map(str::to_owned);
                    [&names[..], &[policy["attached_to"].to_string(), word(&policy["description"]).to_owned()]].concat()
                };
                let rows = policies.as_array().into_iter().flatten().map(row).collect();
                table(&["POLICY", "KIND", "ATTACHED", "DESCRIPTION"], rows)
            })
        }
        PolicyCommand::Show { name, common } => {
            let policy = ask(common, &json!({ "do": "policy-show", "name": name }))?;
            show(common, &policy, |policy| format!("{:#}\n", policy["document"]))
        }
        PolicyCommand::Delete { name, common } => {
            let done = ask(common, &json!({ "do": "policy-delete", "name": name }))?;
            show(common, &done, |_| format!("policy {name} is deleted\n"))
        }
        PolicyCommand::Explain { who, action, resource, context, common } => {
            let pairs: Vec<Value> = context
                .iter()
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    json!([key, value])
                })
                .collect();
            let body =
                json!({ "do": "policy-explain", "as": who, "action": action, "resource": resource, "context": pairs });
            let answer = ask(common, &body)?;
            show(common, &answer, |answer| {
                let mut text = format!(
                    "{} {} on {} as {}: {}\n",
                    word(&answer["decision"]).to_uppercase(),
                    word(&answer["action"]),
                    word(&answer["resource"]),
                    word(&answer["principal"]),
                    word(&answer["reason"])
                );
                for note in answer["notes"].as_array().into_iter().flatten() {
                    text.push_str(&format!("note: {}\n", word(note)));
                }
                text
            })
        }
    }
}
