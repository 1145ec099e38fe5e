//! Chunks and blobs against an independent implementation, every kind of damage, and golden files.

#![allow(clippy::unwrap_used, unreachable_pub)]

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};
use granary_crypto::keys::data_key_generation;
use granary_crypto::shelf::{unwrap_lock, wrap_lock};
use granary_crypto::{
    BLOB_OVERHEAD_BYTES, BlobKey, BucketKey, BucketKeys, ChunkCipher, CryptoError, CustomerKey, DataKey, Lock,
    MemoryKeyProvider, NonceKey, RootKeyId, RootKeys, Secret32, Shelf, open_blob, seal_blob,
};
use granary_types::{BucketId, PartId, WrappedKey};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

const KEY: [u8; 32] = [0x42; 32];
const PART: PartId = PartId([7; 16]);

fn cipher() -> ChunkCipher {
    ChunkCipher::new(&DataKey::from_secret(Secret32::from_bytes(KEY)), PART)
}

/// Nonce and AAD of a chunk, written out from the format page and not with the crate's code.
fn by_the_book(part: PartId, index: u64) -> ([u8; 12], Vec<u8>) {
    let mut nonce = [0u8; 12];
    nonce[4..].copy_from_slice(&index.to_le_bytes());
    (nonce, [&part.0[..], &index.to_le_bytes()].concat())
}

fn filled(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn the_aes_gcm_crate_opens_what_we_seal_and_the_other_way_round() {
    let second = Aes256Gcm::new(&KEY.into());
    for (index, len) in [(0u64, 16), (1, 17), (2, 4096), (u64::MAX, 65_536), (1 << 40, 12_288)] {
        let plain = filled(len - 16, 3);
        let mut slot = plain.clone();
        slot.resize(len, 0xee);
        cipher().seal(index, &mut slot);
        let (nonce, aad) = by_the_book(PART, index);
        let opened = second.decrypt(&nonce.into(), Payload { msg: &slot, aad: &aad }).unwrap();
        assert_eq!(opened, plain);

        let mut theirs = second.encrypt(&nonce.into(), Payload { msg: &plain, aad: &aad }).unwrap();
        assert_eq!(theirs, slot);
        cipher().open(index, &mut theirs).unwrap();
        assert_eq!(theirs[..len - 16], plain);
    }
}

#[test]
fn any_flipped_bit_fails() {
    let mut sealed = filled(256, 9);
    cipher().seal(5, &mut sealed);
    for bit in 0..sealed.len() * 8 {
        let mut slot = sealed.clone();
        slot[bit / 8] ^= 1 << (bit % 8);
        assert!(cipher().open(5, &mut slot).is_err(), "bit {bit}");
    }
    for cut in 0..sealed.len() {
        assert!(cipher().open(5, &mut sealed[..cut].to_vec()).is_err(), "cut to {cut}");
    }
    cipher().open(5, &mut sealed).unwrap();
}

#[test]
fn chunks_cannot_be_swapped_between_positions_parts_or_keys() {
    let mut sealed = filled(4096, 1);
    cipher().seal(5, &mut sealed);
    let key = || DataKey::from_secret(Secret32::from_bytes(KEY));
    assert!(cipher().open(6, &mut sealed.clone()).is_err());
    assert!(ChunkCipher::new(&key(), PartId([8; 16])).open(5, &mut sealed.clone()).is_err());
    assert!(ChunkCipher::new(&DataKey::generate(), PART).open(5, &mut sealed.clone()).is_err());
}

#[test]
fn debug_output_holds_no_secrets() {
    let secret = Secret32::from_bytes(KEY);
    let keys = RootKeys::from_keys(vec![(RootKeyId([1; 8]), Secret32::from_bytes(KEY))]).unwrap();
    let provider = MemoryKeyProvider::new(keys);
    let bucket = BucketKey::from_secret(1, Secret32::from_bytes(KEY));
    let keyring = granary_crypto::Keyring::create(&provider, granary_types::ClusterId([3; 16]), 1).unwrap();
    let shown = format!(
        "{secret:?} {provider:?} {bucket:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        DataKey::from_secret(Secret32::from_bytes(KEY)),
        cipher(),
        BlobKey::new(&secret),
        NonceKey::new(&secret),
        keyring.keys(),
        BucketKeys::generate().wrap(&secret, BucketId(1)),
    );
    for leak in ["0x42", "4242", "66, 66", "QkJC", "BBB"] {
        assert!(!shown.contains(leak), "{leak} in {shown}");
    }
}

#[test]
fn blobs_round_trip_and_are_bound_to_their_aad() {
    let key = Secret32::from_bytes(KEY);
    for len in [0usize, 1, 100, 70_000] {
        let plain = filled(len, 2);
        let blob = seal_blob(&key, b"shard 1", &plain);
        assert_eq!(blob.len(), len + BLOB_OVERHEAD_BYTES);
        assert_eq!(open_blob(&key, b"shard 1", &blob).unwrap(), plain);
        assert!(open_blob(&key, b"shard 2", &blob).is_err());
        assert!(open_blob(&Secret32::random(), b"shard 1", &blob).is_err());
        assert_ne!(seal_blob(&key, b"shard 1", &plain), blob, "nonces are fresh");
    }
    let blob = seal_blob(&key, b"", b"text");
    for bit in 0..blob.len() * 8 {
        let mut bad = blob.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(open_blob(&key, b"", &bad).is_err(), "bit {bit}");
    }
    for cut in 0..blob.len() {
        assert!(open_blob(&key, b"", &blob[..cut]).is_err(), "cut to {cut}");
    }
}

#[test]
fn data_keys_unwrap_only_for_their_part_and_bucket() {
    let bucket = BucketKey::generate();
    let key = DataKey::generate();
    let wrapped = bucket.wrap_data_key(&key, PART, &Lock::None);
    assert_eq!(wrapped.0.len(), 62);
    let opened = bucket.unwrap_data_key(&wrapped, PART, &Lock::None).unwrap();
    let (mut a, mut b) = (filled(64, 1), filled(64, 1));
    ChunkCipher::new(&key, PART).seal(0, &mut a);
    ChunkCipher::new(&opened, PART).seal(0, &mut b);
    assert_eq!(a, b);

    assert!(matches!(bucket.unwrap_data_key(&wrapped, PartId([8; 16]), &Lock::None), Err(CryptoError::Open { .. })));
    assert!(BucketKey::generate().unwrap_data_key(&wrapped, PART, &Lock::None).is_err());
    for bit in 0..wrapped.0.len() * 8 {
        let mut bad = wrapped.0.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(bucket.unwrap_data_key(&WrappedKey(bad), PART, &Lock::None).is_err(), "bit {bit}");
    }
    for cut in 0..wrapped.0.len() {
        assert!(bucket.unwrap_data_key(&WrappedKey(wrapped.0[..cut].to_vec()), PART, &Lock::None).is_err());
    }
}

#[test]
fn a_rotated_bucket_key_takes_over_what_the_old_one_wrapped() {
    let (old, new) = (BucketKey::generate(), BucketKey::from_secret(2, Secret32::random()));
    let customer = CustomerKey::new(Secret32::random(), "md5".to_owned());
    let key = DataKey::generate();
    for lock in [Lock::None, Lock::Customer(&customer)] {
        let before = old.wrap_data_key(&key, PART, &lock);
        assert!(new.unwrap_data_key(&before, PART, &lock).is_err());
        let after = new.rewrap_data_key(&old, &before, PART).unwrap();
        assert_eq!(data_key_generation(&before).unwrap(), 1);
        assert_eq!(data_key_generation(&after).unwrap(), 2);
        assert!(old.unwrap_data_key(&after, PART, &lock).is_err());
        let (mut a, mut b) = (filled(64, 1), filled(64, 1));
        ChunkCipher::new(&key, PART).seal(0, &mut a);
        ChunkCipher::new(&new.unwrap_data_key(&after, PART, &lock).unwrap(), PART).seal(0, &mut b);
        assert_eq!(a, b);
    }
}

/// Files made by version 1 and kept: what is on drives today must open for ever.
#[test]
fn golden_files_open() {
    let read = |name: &str| {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let text: String = text.split_whitespace().collect();
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect::<Vec<u8>>()
    };
    let bless = std::env::var_os("GRANARY_BLESS").is_some();
    let write = |name: &str, bytes: &[u8]| {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR")), hex + "\n").unwrap();
    };
    let bucket = BucketKey::from_secret(1, Secret32::from_bytes([0x24; 32]));
    let keys = RootKeys::from_keys(vec![(RootKeyId([9; 8]), Secret32::from_bytes([0x99; 32]))]).unwrap();
    let provider = MemoryKeyProvider::new(keys);
    let lock = Secret32::from_bytes([0x10; 32]);
    let customer = CustomerKey::new(Secret32::from_bytes([0xc5; 32]), "md5".to_owned());
    let plain = filled(80, 7);
    let mut chunk = plain.clone();
    chunk.extend_from_slice(&[0; 16]);
    cipher().seal(3, &mut chunk);
    if bless {
        write("chunk-v1.hex", &chunk);
        write("blob-v1.hex", &seal_blob(&Secret32::from_bytes(KEY), b"aad", &plain));
        let key = DataKey::from_secret(Secret32::from_bytes(KEY));
        write("data-key-v2.hex", &bucket.wrap_data_key(&key, PART, &Lock::None).0);
        write("data-key-customer-v2.hex", &bucket.wrap_data_key(&key, PART, &Lock::Customer(&customer)).0);
        write("bucket-keys-v2.hex", &BucketKeys::from_keys(vec![bucket]).unwrap().wrap(&lock, BucketId(77)).0);
        write("bucket-lock-v1.hex", &wrap_lock(&provider, BucketId(77), &lock).unwrap().0);
    }
    // Chunks are deterministic: the same bytes, not only bytes that open.
    assert_eq!(read("chunk-v1.hex"), chunk);
    assert_eq!(open_blob(&Secret32::from_bytes(KEY), b"aad", &read("blob-v1.hex")).unwrap(), plain);
    let lock = unwrap_lock(&provider, BucketId(77), &WrappedKey(read("bucket-lock-v1.hex"))).unwrap();
    let opened = BucketKeys::unwrap(&lock, BucketId(77), &WrappedKey(read("bucket-keys-v2.hex"))).unwrap();
    for (file, lock) in [("data-key-v2.hex", Lock::None), ("data-key-customer-v2.hex", Lock::Customer(&customer))] {
        let data_key = opened.unwrap_data_key(&WrappedKey(read(file)), PART, &lock).unwrap();
        let mut chunk = chunk.clone();
        ChunkCipher::new(&data_key, PART).open(3, &mut chunk).unwrap();
        assert_eq!(chunk[..80], plain, "{file}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_round_trip(index: u64, part: [u8; 16], key: [u8; 32], plain in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let cipher = ChunkCipher::new(&DataKey::from_secret(Secret32::from_bytes(key)), PartId(part));
        let mut slot = plain.clone();
        slot.extend_from_slice(&[0; 16]);
        cipher.seal(index, &mut slot);
        prop_assert!(plain.len() < 16 || slot[..plain.len()] != plain[..]);
        let (nonce, aad) = by_the_book(PartId(part), index);
        let second = Aes256Gcm::new(&key.into()).decrypt(&nonce.into(), Payload { msg: &slot, aad: &aad }).unwrap();
        prop_assert_eq!(&second, &plain);
        cipher.open(index, &mut slot).unwrap();
        prop_assert_eq!(&slot[..plain.len()], &plain[..]);
    }

    #[test]
    fn hostile_bytes_never_open_or_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(open_blob(&Secret32::from_bytes(KEY), b"", &bytes).is_err());
        prop_assert!(cipher().open(0, &mut bytes.clone()).is_err());
        let bucket = BucketKey::from_secret(1, Secret32::from_bytes(KEY));
        prop_assert!(bucket.unwrap_data_key(&WrappedKey(bytes.clone()), PART, &Lock::None).is_err());
        prop_assert!(Shelf::parse(&bytes).is_err());
        prop_assert!(BucketKeys::unwrap(&Secret32::from_bytes(KEY), BucketId(1), &WrappedKey(bytes)).is_err());
    }
}
