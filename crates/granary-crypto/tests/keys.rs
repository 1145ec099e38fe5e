//! The root key file and the keyring, on real files.

#![allow(clippy::unwrap_used, unreachable_pub)]

use std::os::unix::fs::PermissionsExt as _;

use granary_crypto::{
    CryptoError, FileKeyProvider, KeyProvider, Keyring, MemoryKeyProvider, RootKeyId, RootKeys, Secret32,
};
use granary_types::ClusterId;

#[test]
fn the_key_file_is_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.key");
    let made = FileKeyProvider::create(&path).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(FileKeyProvider::create(&path), Err(CryptoError::KeyFileExists(_))));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");

    let wrapped = made.wrap(b"context", &Secret32::from_bytes([5; 32])).unwrap();
    let opened = FileKeyProvider::open_or_create(&path).unwrap();
    assert_eq!(opened.active(), made.active());
    assert_eq!(opened.unwrap(b"context", &wrapped).unwrap(), Secret32::from_bytes([5; 32]));
    assert!(matches!(opened.unwrap(b"other", &wrapped), Err(CryptoError::Open { .. })));

    let other = FileKeyProvider::open_or_create(&dir.path().join("other.key")).unwrap();
    assert!(matches!(other.unwrap(b"context", &wrapped), Err(CryptoError::UnknownRootKey(id)) if id == made.active()));
    assert!(opened.describe().contains("root.key"));
}

#[test]
fn an_exposed_key_file_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.key");
    FileKeyProvider::create(&path).unwrap();
    for mode in [0o640, 0o604, 0o660, 0o644, 0o602, 0o601] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = FileKeyProvider::open(&path).expect_err("exposed");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    FileKeyProvider::open(&path).unwrap();
}

#[test]
fn a_missing_or_foreign_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.key");
    assert!(matches!(FileKeyProvider::open(&path), Err(CryptoError::Io { .. })));
    std::fs::write(&path, "hello\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(FileKeyProvider::open_or_create(&path), Err(CryptoError::Format { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\n", "and is left alone");
}

#[test]
fn keyrings_round_trip_and_the_newest_valid_copy_wins() {
    let old_root = || (RootKeyId([1; 8]), Secret32::from_bytes([1; 32]));
    let new_root = || (RootKeyId([2; 8]), Secret32::from_bytes([2; 32]));
    let before = MemoryKeyProvider::new(RootKeys::from_keys(vec![old_root()]).unwrap());
    let during = MemoryKeyProvider::new(RootKeys::from_keys(vec![new_root(), old_root()]).unwrap());
    let after = MemoryKeyProvider::new(RootKeys::from_keys(vec![new_root()]).unwrap());

    let cluster = ClusterId([8; 16]);
    let first = Keyring::create(&before, cluster, 1_000).unwrap();
    let first_bytes = first.to_bytes();
    let log = first.keys().log.duplicate();
    let opened = Keyring::open(&first_bytes, &before).unwrap();
    assert_eq!((opened.cluster_id(), opened.generation()), (cluster, 1));
    assert_eq!(opened.keys().log, log);
    assert_ne!(opened.keys().log, opened.keys().index);

    // Rotation of the root: same keys, next generation, no need of the old root any more.
    let second_bytes = opened.rewrap(&during).unwrap().to_bytes();
    let newest = Keyring::open_newest([&first_bytes[..], b"torn", &second_bytes], &after).unwrap();
    assert_eq!(newest.generation(), 2);
    assert_eq!(newest.keys().log, log);
    assert!(matches!(Keyring::open(&first_bytes, &after), Err(CryptoError::UnknownRootKey(_))));

    let mut torn = second_bytes.clone();
    torn.truncate(second_bytes.len() / 2);
    assert_eq!(Keyring::open_newest([&torn[..], &first_bytes], &during).unwrap().generation(), 1);
    assert!(matches!(Keyring::open_newest([&torn[..], &torn], &during), Err(CryptoError::NoKeyring { copies: 2, .. })));
    assert!(matches!(Keyring::open_newest([], &during), Err(CryptoError::NoKeyring { copies: 0, .. })));

    let foreign = Keyring::create(&before, ClusterId([9; 16]), 1).unwrap().to_bytes();
    assert!(matches!(
        Keyring::open_newest([&first_bytes[..], &foreign], &before),
        Err(CryptoError::ForeignKeyring(..))
    ));
}

#[test]
fn a_changed_keyring_is_refused() {
    let provider = MemoryKeyProvider::generate();
    let bytes = Keyring::create(&provider, ClusterId([8; 16]), 1_000).unwrap().to_bytes();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        // White space may change (JSON); nothing else may.
        if bytes[at].is_ascii_whitespace() {
            continue;
        }
        assert!(Keyring::open(&bad, &provider).is_err(), "byte {at} of {}", String::from_utf8_lossy(&bad));
    }
    // Authentic even where someone fixes the checksum: keys are bound to cluster, generation and name.
    let text = String::from_utf8(bytes).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let index = value["keyring"]["keys"]["index"].clone();
    value["keyring"]["keys"]["log"] = index;
    // Fields in the file's order, as the checksum is computed over them.
    let field = |name: &str| value["keyring"][name].to_string();
    let key = |name: &str| value["keyring"]["keys"][name].to_string();
    let content = format!(
        "{{\"format\":{},\"version\":{},\"cluster\":{},\"generation\":{},\"created_us\":{},\"keys\":{{\"log\":{},\"index\":{},\"drive_index\":{},\"drive_mac\":{},\"cluster\":{}}}}}",
        field("format"),
        field("version"),
        field("cluster"),
        field("generation"),
        field("created_us"),
        key("log"),
        key("index"),
        key("drive_index"),
        key("drive_mac"),
        key("cluster"),
    );
    let crc = granary_types::frame::crc32c(content.as_bytes());
    let forged = format!("{{\"keyring\":{content},\"crc32c\":\"{crc:08x}\"}}");
    assert!(matches!(Keyring::open(forged.as_bytes(), &provider), Err(CryptoError::Open { .. })));
}

/// A keyring and a key file of version 1, made once and kept.
#[test]
fn golden_files_open() {
    let path = |name: &str| format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GRANARY_BLESS").is_some() {
        let _ = std::fs::remove_file(path("root-v1.key"));
        let provider = FileKeyProvider::create(path("root-v1.key").as_ref()).unwrap();
        let keyring = Keyring::create(&provider, ClusterId([0xc1; 16]), 1_795_000_000_000_000).unwrap();
        std::fs::write(path("keyring-v1.json"), keyring.to_bytes()).unwrap();
    }
    // Version control keeps no 0600; the format is what is tested here.
    let dir = tempfile::tempdir().unwrap();
    let key_path = dir.path().join("root.key");
    std::fs::copy(path("root-v1.key"), &key_path).unwrap();
    std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let provider = FileKeyProvider::open(&key_path).unwrap();
    let bytes = std::fs::read(path("keyring-v1.json")).unwrap();
    let keyring = Keyring::open(&bytes, &provider).unwrap();
    assert_eq!(keyring.cluster_id(), ClusterId([0xc1; 16]));
    assert_eq!(keyring.to_bytes(), bytes, "what is read is written back the same");
}
