//! `granary status`, `drive`, `heal`, `health`: requests to a running node, and what they show.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::client::{Client, ClientError};
use crate::cli::{BucketCommand, DriveCommand, HealArgs, HealthArgs, NodeArgs, QuotaCommand, StatusArgs};
use crate::commands_upstream;

/// Between two looks at a repair or scrub that runs.
const POLL: Duration = Duration::from_millis(500);

pub(crate) type Result<T> = std::result::Result<T, ClientError>;

pub(crate) fn get(client: &Client, path: &str) -> Result<Value> {
    decode(client, &client.request("GET", path, &Value::Null)?)
}

pub(crate) fn post(client: &Client, path: &str, body: &Value) -> Result<Value> {
    decode(client, &client.request("POST", path, body)?)
}

fn decode(client: &Client, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes)
        .map_err(|error| ClientError::Garbled { address: client.address(), why: error.to_string() })
}

pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

pub(crate) fn say_json(value: &Value) -> Result<()> {
    say(&format!("{value:#}\n"))
}

/// A line that is written over while something runs, on a terminal only.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{text}");
    }
}

/// `granary status`.
pub(crate) fn status(args: &StatusArgs) -> Result<()> {
    let status = get(&Client::new(&args.node)?, "/admin/v1/status")?;
    if args.json {
        return say_json(&status);
    }
    let node = &status["node"];
    let mut out = format!(
        "granary {} at {}, up {} (pid {})\n",
        word(&status["version"]),
        word(&status["endpoint"]),
        duration(number(&status["uptime_s"])),
        status["pid"],
    );
    match status["not_ready_because"].as_str() {
        Some(why) => out.push_str(&format!("NOT READY: {why}\n")),
        None => out.push_str("ready\n"),
    }
    if status["plaintext_beyond_loopback"] == true {
        out.push_str("PLAINTEXT: other machines can connect and nothing on the wire is encrypted\n");
    }
    if status["admin_plaintext_beyond_loopback"] == true {
        out.push_str("PLAINTEXT: the admin port can be reached by other machines and is not encrypted\n");
    }
    if let Some(tls) = status["tls"]["text"].as_str() {
        out.push_str(&format!("{tls}\n"));
    }
    out.push_str(&format!(
        "erasure {}, {}\n{} buckets, region {}\nkeys: {}\n",
        word(&node["scheme"]),
        word(&node["io"]),
        node["buckets"],
        word(&node["region"]),
        word(&status["keys"]),
    ));
    out.push_str(&drive_table(&node["drives"]));
    out.push_str(&match node["drives_spare"].as_i64() {
        Some(spare) if spare > 0 => format!("{spare} more drives may be lost before data is\n"),
        Some(0) => "NO more drive may be lost: replace what is missing now\n".to_owned(),
        _ => "TOO FEW drives: some data cannot be read\n".to_owned(),
    });
    let heal = &node["heal"];
    if heal["running"] == true || number(&heal["queued"]) > 0 {
        out.push_str(&heal_line(heal));
    }
    let audit = &status["audit"];
    out.push_str(&format!(
        "audit: {} events, {} not sealed yet, {} segments kept {} days; clock {}\n",
        audit["events"],
        audit["unsealed_events"],
        audit["segments"],
        audit["keep_days"],
        if audit["clock"]["synchronised"] == true { "synchronised" } else { "NOT SYNCHRONISED" },
    ));
    for line in node["recovery"].as_array().into_iter().flatten() {
        out.push_str(&format!("recovery: {}\n", word(line)));
    }
    say(&out)
}

/// `granary health`. Whether the node serves.
pub(crate) fn health(args: &HealthArgs) -> Result<()> {
    Client::new(&args.node)?.get_open("/health/ready").map(|_| ())
}

/// `granary heal`: starts a repair and follows it to its end. `Ok(false)`: something could not be made whole.
pub(crate) fn heal(args: &HealArgs) -> Result<bool> {
    let client = Client::new(&args.node)?;
    let deep = args.deep;
    post(&client, "/admin/v1/heal", &json!({ "deep": deep }))?;
    let done = follow_heal(&client)?;
    if args.json {
        say_json(&done)?;
    } else {
        say(&heal_line(&done))?;
        for failure in done["failures"].as_array().into_iter().flatten() {
            say(&format!("  {}\n", word(failure)))?;
        }
    }
    Ok(number(&done["failed_parts"]) == 0)
}

fn follow_heal(client: &Client) -> Result<Value> {
    loop {
        let now = get(client, "/admin/v1/heal")?;
        if now["running"] != true {
            progress("");
            return Ok(now);
        }
        progress(heal_line(&now).trim_end());
        std::thread::sleep(POLL);
    }
}

fn heal_line(heal: &Value) -> String {
    let state = if heal["running"] == true { "repair runs" } else { "repair" };
    format!(
        "{state}: {} parts examined, {} repaired ({} shards, {} written), {} failed, {} wait for drives that are down, {} reports queued\n",
        heal["examined_parts"],
        heal["repaired_parts"],
        heal["written_shards"],
        bytes(number(&heal["written_bytes"])),
        heal["failed_parts"],
        heal["waiting_parts"],
        heal["queued"],
    )
}

/// `granary drive`. `Ok(false)`: something could not be made whole.
pub(crate) fn drive(command: &DriveCommand) -> Result<bool> {
    match command {
        DriveCommand::List { json, node } => {
            let drives = get(&Client::new(node)?, "/admin/v1/drives")?;
            if *json {
                say_json(&drives["drives"])?
            } else {
                say(&drive_table(&drives["drives"]))?
            }
            Ok(true)
        }
        DriveCommand::Add { path, node } => {
            let answer = post(&Client::new(node)?, "/admin/v1/drives/add", &json!({ "path": absolute(path)? }))?;
            taken(&answer)?;
            Ok(true)
        }
        DriveCommand::Replace { drive, path, node } => {
            let client = Client::new(node)?;
            let drive = selector(drive)?;
            let body = json!({ "drive": drive, "path": absolute(path)? });
            taken(&post(&client, "/admin/v1/drives/replace", &body)?)?;
            let done = follow_heal(&client)?;
            say(&heal_line(&done))?;
            Ok(number(&done["failed_parts"]) == 0)
        }
        DriveCommand::Scrub { drive, json, node } => scrub(drive.as_deref(), *json, node),
    }
}

/// `granary bucket`.
pub(crate) fn bucket(command: &BucketCommand) -> Result<()> {
    let command = match command {
        BucketCommand::Quota(command) => command,
        BucketCommand::Upstream(command) => return commands_upstream::upstream(command),
    };
    match command {
        QuotaCommand::Set { bucket, bytes, objects, node } => {
            let mut body = json!({ "bucket": bucket });
            for (name, quota) in [("bytes", bytes), ("objects", objects)] {
                if let Some(quota) = quota {
                    body[name] = json!(quota.0);
                }
            }
            quota(&post(&Client::new(node)?, "/admin/v1/quota/set", &body)?)
        }
        QuotaCommand::Show { bucket, json, node } => {
            let shown = post(&Client::new(node)?, "/admin/v1/quota/show", &json!({ "bucket": bucket }))?;
            if *json { say_json(&shown) } else { quota(&shown) }
        }
    }
}

fn quota(shown: &Value) -> Result<()> {
    let limit = |name: &str, text: fn(u64) -> String| shown[name].as_u64().map_or("no limit".to_owned(), text);
    say(&format!(
        "{}: {} of {}, {} of {} objects\n",
        word(&shown["bucket"]),
        bytes(number(&shown["used_bytes"])),
        limit("quota_bytes", bytes),
        shown["used_objects"],
        limit("quota_objects", |n| n.to_string()),
    ))
}

/// A drive's name as the node knows it: a folder is made absolute here, where it is meant.
fn selector(drive: &str) -> Result<String> {
    if drive.contains('/') { absolute(&PathBuf::from(drive)) } else { Ok(drive.to_owned()) }
}

fn absolute(path: &std::path::Path) -> Result<String> {
    Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
}

fn taken(answer: &Value) -> Result<()> {
    let drive = &answer["drive"];
    say(&format!("d{} ({}) is in use at {}\n", drive["number"], word(&drive["id"]), word(&drive["path"])))?;
    match answer["note"].as_str() {
        Some(note) if !note.is_empty() => say(&format!("{note}\n")),
        _ => Ok(()),
    }
}

fn scrub(drive: Option<&str>, json: bool, node: &NodeArgs) -> Result<bool> {
    let client = Client::new(node)?;
    let drive = drive.map(selector).transpose()?;
    post(&client, "/admin/v1/scrub", &json!({ "drive": drive }))?;
    let scrubs = loop {
        let now = get(&client, "/admin/v1/scrub")?["scrubs"].take();
        if !now.as_array().into_iter().flatten().any(|scrub| scrub["running"] == true) {
            break now;
        }
        let read: u64 = now.as_array().into_iter().flatten().map(|scrub| number(&scrub["checked_bytes"])).sum();
        progress(&format!("{} read", bytes(read)));
        std::thread::sleep(POLL);
    };
    progress("");
    if json {
        say_json(&scrubs)?;
    }
    let mut clean = true;
    for scrub in scrubs.as_array().into_iter().flatten() {
        let damaged = number(&scrub["damaged_shards"]);
        clean &= damaged == 0;
        if !json {
            let (shards, read) = (number(&scrub["checked_shards"]), bytes(number(&scrub["checked_bytes"])));
            let verdict =
                if damaged == 0 { "no damage".to_owned() } else { format!("{damaged} DAMAGED, queued for repair") };
            say(&format!("d{}: {shards} shards, {read} read: {verdict}\n", scrub["drive"]))?;
        }
    }
    Ok(clean)
}

fn drive_table(drives: &Value) -> String {
    let mut out =
        format!("{:<5} {:<10} {:>11} {:>11} {:>11}  {}\n", "DRIVE", "HEALTH", "USED", "FREE", "TOTAL", "FOLDER");
    for drive in drives.as_array().into_iter().flatten() {
        // `DriveHealth` is a word, or a word with its reason.
        let (health, why) = match &drive["health"] {
            Value::String(word) => (word.to_lowercase(), String::new()),
            Value::Object(map) => map
                .iter()
                .next()
                .map(|(word, why)| (word.to_lowercase(), format!(": {}", self::word(why))))
                .unwrap_or_default(),
            _ => Default::default(),
        };
        let health = if drive["retired"] == true { "retired".to_owned() } else { health };
        let space = |name: &str| bytes(number(&drive["space"][name]));
        out.push_str(&format!(
            "d{:<4} {:<10} {:>11} {:>11} {:>11}  {}{why}\n",
            number(&drive["number"]),
            health,
            space("used_bytes"),
            space("free_bytes"),
            space("total_bytes"),
            drive["path"].as_str().unwrap_or("-"),
        ));
    }
    out
}

pub(crate) fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Bytes for people: binary units, one decimal.
fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 40), "5.0 TiB");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(7_260), "2 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }

    #[test]
    fn the_drive_table_says_what_is_wrong() {
        let drives = json!([
            { "number": 0, "path": "/a", "health": "Online", "retired": false,
              "space": { "used_bytes": 1024, "free_bytes": 2048, "total_bytes": 4096 } },
            { "number": 1, "path": null, "health": { "Offline": "not mounted" }, "retired": false, "space": {} },
        ]);
        let table = drive_table(&drives);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("d0    online") && lines[1].ends_with("4.0 KiB  /a"), "{table}");
        assert!(lines[2].starts_with("d1    offline") && lines[2].ends_with("-: not mounted"), "{table}");
    }
}
