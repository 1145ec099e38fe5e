//! `granary key`: requests about keys to a running node, and what they show.

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
        KeyCommand::Create(args) => commands_access::key_create(args),
        KeyCommand::List { user, common } => commands_access::key_list(user.as_deref(), common),
        KeyCommand::Disable(which) => commands_access::key_change("disable", which),
        KeyCommand::Enable(which) => commands_access::key_change("enable", which),
        KeyCommand::Delete(which) => commands_access::key_change("delete", which),
    }
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
