//! `granary checkpoint`, `dataset`, `preset`: requests to a running node, and the offline check of a manifest.

use std::io::Read as _;
use std::path::Path;

use granary_store::ai::manifest::{Entry, LINE_BYTES_MAX, Reader, SignatureFile};
use granary_types::{ChecksumAlgorithm, ChecksumHasher};
use serde_json::{Value, json};

use crate::admin::client::{Client, ClientError};
use crate::cli_ai::{ApplyArgs, CacheCommand, CheckpointCommand, DatasetCommand, PresetCommand, VerifyArgs};
use crate::commands::{get, number, post, say, say_json, word};
use crate::preset::{BUILT_IN, Choice, Preset};

type Result<T> = std::result::Result<T, ClientError>;

/// A mistake of the caller, or of a file.
fn wrong(message: String) -> ClientError {
    ClientError::Refused { status: 400, message }
}

/// `granary checkpoint`.
pub(crate) fn checkpoint(command: &CheckpointCommand) -> Result<bool> {
    let CheckpointCommand::Latest { run, marker, suffix, json, node } = command;
    let asked = json!({ "run": run, "marker": marker, "suffix": suffix });
    let found = post(&Client::new(node)?, "/admin/v1/ai/checkpoint/latest", &asked)?;
    if *json {
        say_json(&found)?;
    } else {
        say(&format!("s3://{}/{}\n", word(&found["bucket"]), word(&found["key"])))?;
    }
    Ok(true)
}

/// `granary dataset`. `Ok(false)`: something does not agree.
pub(crate) fn dataset(command: &DatasetCommand) -> Result<bool> {
    match command {
        DatasetCommand::Freeze { dataset, sources, node } => {
            let asked = json!({ "dataset": dataset, "sources": sources });
            let found = post(&Client::new(node)?, "/admin/v1/ai/dataset/freeze", &asked)?;
            say(&dataset_line(&found))?;
        }
        DatasetCommand::List { bucket, json, node } => {
            let found = post(&Client::new(node)?, "/admin/v1/ai/dataset/list", &json!({ "bucket": bucket }))?;
            if *json {
                say_json(&found["datasets"])?;
            } else {
                for one in found["datasets"].as_array().into_iter().flatten() {
                    say(&dataset_line(one))?;
                }
            }
        }
        DatasetCommand::Lineage { dataset, json, node } => {
            let found = post(&Client::new(node)?, "/admin/v1/ai/dataset/lineage", &json!({ "dataset": dataset }))?;
            if *json {
                say_json(&found)?;
            } else {
                say(&lineage(&found, 0))?;
            }
        }
        DatasetCommand::Key { node } => {
            let found = get(&Client::new(node)?, "/admin/v1/ai/dataset/key")?;
            say(&format!("{}\n", word(&found["public_key"])))?;
        }
        DatasetCommand::Thaw { dataset, yes: _, node } => {
            let found = post(&Client::new(node)?, "/admin/v1/ai/dataset/thaw", &json!({ "dataset": dataset }))?;
            say(&format!("{} may change again\n", word(&found["thawed"])))?;
        }
        DatasetCommand::Verify(args) => return verify(args),
    }
    Ok(true)
}

fn dataset_line(found: &Value) -> String {
    let place = format!("{}/{}", word(&found["bucket"]), word(&found["prefix"]));
    if found["finished"] != true {
        return format!("{place}: closed, but without a manifest: freeze it again to finish\n");
    }
    let (objects, bytes, samples) = (number(&found["objects"]), number(&found["bytes"]), number(&found["samples"]));
    let (manifest, sha256) = (word(&found["manifest"]), word(&found["manifest_sha256"]));
    format!("{place}: frozen, {objects} objects, {bytes} bytes, {samples} samples\n  {manifest}\n  sha256 {sha256}\n")
}

fn lineage(found: &Value, depth: usize) -> String {
    let sha256 = found["manifest_sha256"].as_str().unwrap_or("-");
    let mut out = format!(
        "{}{}/{} {} {sha256}\n",
        "  ".repeat(depth),
        word(&found["bucket"]),
        word(&found["prefix"]),
        word(&found["state"])
    );
    for source in found["sources"].as_array().into_iter().flatten() {
        out.push_str(&lineage(source, depth + 1));
    }
    out
}

fn verify(args: &VerifyArgs) -> Result<bool> {
    let found = match (&args.dataset, &args.manifest, &args.signature) {
        (_, Some(manifest), Some(signature)) => {
            offline(manifest, signature, args.public_key.as_deref(), args.files.as_deref())?
        }
        (dataset, ..) => {
            let asked = json!({ "dataset": dataset, "deep": args.deep });
            post(&Client::new(&args.node)?, "/admin/v1/ai/dataset/verify", &asked)?
        }
    };
    let problems = number(&found["problems"]);
    if args.json {
        say_json(&found)?;
    } else {
        for message in found["messages"].as_array().into_iter().flatten() {
            say(&format!("  {}\n", word(message)))?;
        }
        let (objects, bytes) = (number(&found["objects"]), number(&found["bytes"]));
        let verdict = if problems == 0 { "as signed".to_owned() } else { format!("{problems} PROBLEMS") };
        let (key, sha256) = (word(&found["public_key"]), word(&found["manifest_sha256"]));
        say(&format!("{objects} objects, {bytes} bytes: {verdict}\n  manifest {sha256}\n  signed by {key}\n"))?;
    }
    Ok(problems == 0)
}

/// Checks a manifest without a node: its signature, and files beside it if there are any.
fn offline(manifest: &Path, signature: &Path, public_key: Option<&str>, files: Option<&Path>) -> Result<Value> {
    let cannot = |path: &Path, error: std::io::Error| wrong(format!("{}: {error}", path.display()));
    let mut file = std::fs::File::open(manifest).map_err(|error| cannot(manifest, error))?;
    let mut text = String::new();
    let limit = LINE_BYTES_MAX as u64;
    let opened = std::fs::File::open(signature).map_err(|error| cannot(signature, error))?;
    opened.take(limit).read_to_string(&mut text).map_err(|error| cannot(signature, error))?;
    let signed: SignatureFile = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("{}: not a signature: {error}", signature.display())))?;

    let (mut reader, mut hasher) = (Reader::default(), ChecksumHasher::new(ChecksumAlgorithm::Sha256));
    let mut messages = Vec::new();
    let (mut objects, mut bytes, mut prefix) = (0u64, 0u64, String::new());
    let mut buffer = vec![0; 1 << 20];
    let mut read = || -> std::result::Result<(), String> {
        loop {
            let n = file.read(&mut buffer).map_err(|error| error.to_string())?;
            if n == 0 {
                return Ok(());
            }
            hasher.update(&buffer[..n]);
            reader.feed(&buffer[..n], |entry| match entry {
                Entry::Head(head) => prefix = head.prefix,
                Entry::Object(line) => {
                    let local =
                        files.map(|folder| local_file(folder, &prefix, &line.key, line.size, line.checksum.as_deref()));
                    match local {
                        Some(Err(why)) => messages.push(format!("{}: {why}", line.key)),
                        _ => {
                            objects += 1;
                            bytes += line.size;
                        }
                    }
                }
                Entry::Sums(_) => {}
            })?;
        }
    };
    if let Err(why) = read() {
        messages.push(why);
    }
    let digest = hasher.finish().value;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(&digest);
    messages.extend(reader.finish().err());
    messages.extend(signed.check(&sha256, public_key).err());
    let problems = messages.len();
    messages.truncate(100);
    Ok(json!({
        "objects": objects, "bytes": bytes, "problems": problems, "messages": messages,
        "public_key": signed.public_key, "manifest_sha256": granary_types::hex::encode(sha256),
    }))
}

/// What is wrong with the file that an object was downloaded to.
fn local_file(
    folder: &Path,
    prefix: &str,
    key: &str,
    size: u64,
    checksum: Option<&str>,
) -> std::result::Result<(), String> {
    let name = key.strip_prefix(prefix).ok_or("it is not under the dataset's prefix")?;
    if name.split('/').any(|part| part == "..") || name.starts_with('/') {
        return Err("its name leads out of the folder".to_owned());
    }
    let mut file = std::fs::File::open(folder.join(name)).map_err(|error| error.to_string())?;
    // Composite checksums are of parts, which a file does not show.
    let claimed = checksum.and_then(|text| text.split_once('=')).filter(|(_, value)| !value.contains('-'));
    let algorithm = claimed.and_then(|(name, _)| ChecksumAlgorithm::from_name(&name.to_ascii_lowercase()));
    let mut hasher = algorithm.map(ChecksumHasher::new);
    let (mut buffer, mut sum) = (vec![0; 1 << 20], 0u64);
    loop {
        let n = file.read(&mut buffer).map_err(|error| error.to_string())?;
        if n == 0 {
            break;
        }
        sum += n as u64;
        if let Some(hasher) = &mut hasher {
            hasher.update(&buffer[..n]);
        }
    }
    if sum != size {
        return Err(format!("the file has {sum} bytes, the manifest says {size}"));
    }
    match (hasher.map(ChecksumHasher::finish), claimed) {
        (Some(found), Some((_, value))) if found.to_wire() != value => {
            Err("the file does not have the checksum in the manifest".to_owned())
        }
        _ => Ok(()),
    }
}

/// `granary cache`.
pub(crate) fn cache(command: &CacheCommand) -> Result<bool> {
    let (verb, place, node) = match command {
        CacheCommand::Status { json, node } => {
            let found = get(&Client::new(node)?, "/admin/v1/ai/cache/status")?;
            if *json {
                say_json(&found)?;
                return Ok(true);
            }
            say(&format!("{} of {} bytes in use\n", found["bytes"], found["budget_bytes"]))?;
            for one in found["buckets"].as_array().into_iter().flatten() {
                let (hits, misses) = (number(&one["hits"]), number(&one["misses"]));
                let ratio = hits as f64 * 100.0 / (hits + misses).max(1) as f64;
                say(&format!("{:<40} {hits} hits, {misses} misses ({ratio:.1} %)\n", word(&one["bucket"])))?;
            }
            return Ok(true);
        }
        CacheCommand::Warm { place, node } => ("warm", place, node),
        CacheCommand::Pin { place, node } => ("pin", place, node),
        CacheCommand::Evict { place, node } => ("evict", place, node),
    };
    let done = post(&Client::new(node)?, &format!("/admin/v1/ai/cache/{verb}"), &json!({ "place": place }))?;
    let unit = if verb == "evict" { "chunks given up" } else { "bytes read" };
    say(&format!("{} objects, {} {unit}\n", done["objects"], done["amount"]))?;
    if done["is_full"] == true {
        say("the cache is full: the rest was not read\n")?;
    }
    Ok(true)
}

/// `granary preset`. `Ok(false)`: a bucket could not be brought to the preset's settings.
pub(crate) fn preset(command: &PresetCommand) -> Result<bool> {
    match command {
        PresetCommand::List => {
            for (name, text) in BUILT_IN {
                let preset = Preset::parse(text).map_err(wrong)?;
                say(&format!("{name}: {}\n", preset.description))?;
                for bucket in &preset.buckets {
                    say(&format!("  {:<12} {}\n", bucket.name, bucket.description))?;
                }
            }
            Ok(true)
        }
        PresetCommand::Show { name } => say(built_in(name)?).map(|()| true),
        PresetCommand::Apply(args) => apply(args),
    }
}

fn built_in(name: &str) -> Result<&'static str> {
    Preset::built_in(name).ok_or_else(|| {
        let known: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
        wrong(format!("there is no preset `{name}`; there is {} (a file's name ends in .toml)", known.join(", ")))
    })
}

fn apply(args: &ApplyArgs) -> Result<bool> {
    let preset = if args.preset.ends_with(".toml") {
        let text = std::fs::read_to_string(&args.preset).map_err(|error| wrong(format!("{}: {error}", args.preset)))?;
        Preset::parse(&text).map_err(|why| wrong(format!("{}: {why}", args.preset)))?
    } else {
        Preset::parse(built_in(&args.preset)?).map_err(wrong)?
    };
    let (project, region) = (args.project.clone(), args.region.clone());
    let choice = Choice { project, region, lock: args.lock, lock_days: args.lock_days, only_missing: false };
    let done =
        post(&Client::new(&args.node)?, "/admin/v1/ai/preset/apply", &json!({ "preset": preset, "choice": choice }))?;
    let all = done["buckets"].as_array().cloned().unwrap_or_default();
    if args.json {
        say_json(&done["buckets"])?;
    } else {
        for one in &all {
            say(&format!("{}: {} ({})\n", word(&one["bucket"]), word(&one["outcome"]), word(&one["durability"])))?;
            for detail in one["details"].as_array().into_iter().flatten() {
                say(&format!("  {}\n", word(detail)))?;
            }
        }
    }
    Ok(all.iter().all(|one| one["outcome"] != "refused"))
}
