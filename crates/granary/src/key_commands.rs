//! `granary key`: requests about keys to a running node, and what they show.

use granary_crypto::{FileKeyProvider, KeyProvider as _};
use serde_json::{Value, json};

use crate::admin::client::{Client, ClientError};
use crate::cli::{KeyCommand, KmsCommand};
use crate::commands::{get, post, say, say_json, word};
use crate::commands_access;

type Result<T> = std::result::Result<T, ClientError>;

/// Carries a command out.
pub(crate) fn run(command: &KeyCommand) -> Result<()> {
    match command {
        KeyCommand::Kms(command) => kms(command),
        KeyCommand::Status { json, node } => status(*json, &Client::new(node)?),
        KeyCommand::Rotate { bucket: Some(bucket), node } => {
            let answer = post(&Client::new(node)?, "/admin/v1/keys/rotate", &json!({ "bucket": bucket }))?;
            say(&format!("bucket {bucket}: generation {} wraps from now on\n", answer["generation"]))
        }
        KeyCommand::Rotate { bucket: None, node } => {
            let answer = post(&Client::new(node)?, "/admin/v1/keys/rotate", &json!({}))?;
            say(&root_line(&answer))
        }
        KeyCommand::Destroy { bucket, yes_destroy, keep_root, node } => {
            if bucket != yes_destroy {
                return Err(ClientError::Argument(format!("--yes-destroy says `{yes_destroy}`, not `{bucket}`")));
            }
            let asked = json!({ "bucket": bucket, "keep_root": keep_root });
            let answer = post(&Client::new(node)?, "/admin/v1/keys/destroy", &asked)?;
            let mut out = format!("the keys of bucket {bucket} are destroyed\n");
            for missed in answer["missed"].as_array().into_iter().flatten() {
                out.push_str(&format!("NOT REACHED, and may still hold the bucket's lock: {}\n", word(missed)));
            }
            match answer["root"].is_null() {
                false => out.push_str(&root_line(&answer["root"])),
                true => out.push_str(&format!("the root key was not changed: {}\n", word(&answer["root_why"]))),
            }
            say(&out)
        }
        KeyCommand::NewRoot { file } => {
            let made = FileKeyProvider::create(file).map_err(|error| ClientError::Argument(error.to_string()))?;
            say(&format!("{}\n", made.describe()))
        }
        KeyCommand::Create(args) => commands_access::key_create(args),
        KeyCommand::List { user, common } => commands_access::key_list(user.as_deref(), common),
        KeyCommand::Disable(which) => commands_access::key_change("disable", which),
        KeyCommand::Enable(which) => commands_access::key_change("enable", which),
        KeyCommand::Delete(which) => commands_access::key_change("delete", which),
    }
}

fn root_line(root: &Value) -> String {
    let mut out = format!("{} wraps from now on\n", word(&root["provider"]));
    if root["retired"] == true {
        out.push_str("older root keys are gone; destroy backups of them where what they wrapped must not come back\n");
    } else {
        out.push_str("older root keys stay, because not every drive could be written; run this again when it can:\n");
    }
    for missed in root["missed"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}\n", word(missed)));
    }
    out
}

fn status(as_json: bool, client: &Client) -> Result<()> {
    let answer = get(client, "/admin/v1/keys")?;
    if as_json {
        return say_json(&answer);
    }
    let mut out = format!("{}\n", word(&answer["provider"]));
    for bucket in answer["buckets"].as_array().into_iter().flatten() {
        let name = word(&bucket["bucket"]);
        out.push_str(&match (bucket["destroyed_us"].is_null(), bucket["keys"].as_u64()) {
            (false, _) => format!("{name}: DESTROYED\n"),
            (true, Some(0) | None) => format!("{name}: cannot be opened now\n"),
            (true, Some(keys)) => format!("{name}: generation {}, {keys} keys\n", bucket["generation"]),
        });
    }
    say(&out)
}

fn kms(command: &KmsCommand) -> Result<()> {
    match command {
        KmsCommand::Create { id, node } => {
            post(&Client::new(node)?, "/admin/v1/keys/kms/create", &json!({ "id": id }))?;
            say(&format!("KMS key {id} made\n"))
        }
        KmsCommand::List { json: as_json, node } => {
            let answer = get(&Client::new(node)?, "/admin/v1/keys/kms")?;
            if *as_json {
                return say_json(&answer);
            }
            let mut out = String::new();
            for key in answer["keys"].as_array().into_iter().flatten() {
                let state = if key["enabled"] == Value::Bool(true) { "enabled" } else { "disabled" };
                out.push_str(&format!("{state:<10}{}\n", word(&key["id"])));
            }
            say(&out)
        }
        KmsCommand::Disable { id, node } => switch(id, false, &Client::new(node)?),
        KmsCommand::Enable { id, node } => switch(id, true, &Client::new(node)?),
    }
}

fn switch(id: &str, enabled: bool, client: &Client) -> Result<()> {
    post(client, "/admin/v1/keys/kms/enable", &json!({ "id": id, "enabled": enabled }))?;
    say(&format!("KMS key {id} {}\n", if enabled { "enabled" } else { "disabled" }))
}
