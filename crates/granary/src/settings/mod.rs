//! Every setting there is, in one file; the doc comment is the documentation.
//!
//! `config/granary.toml` is rendered from this file (see [`render`]), and a test compares the two. Reading a
//! file and the environment: [`load`]. What values must satisfy together: [`check`].

mod check;
mod load;
mod render;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::notify::{NatsTarget, Targets, WebhookTarget};
use granary_access::{Guesses, Limits};
use granary_types::Scheme;
use granary_types::limits::{AUDIT_KEEP_DAYS_MIN, COPIES_BYTES_MAX, INLINE_BYTES_MAX, SEGMENT_BYTES_DEFAULT};

use crate::server::local_ca::LocalCa;
pub(crate) use load::SettingsError;
pub(crate) use render::rendered_default;
use value::Setting;
pub(crate) use value::{Engine, KeyProviderKind, LogFormat};

/// One setting, as documented.
struct Field {
    section: &'static str,
    name: &'static str,
    docs: &'static [&'static str],
}

/// Declares the sections: structs with their defaults, and the tables that loading and rendering walk.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])* $field:ident: $type:ty = $default:expr, )*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub(crate) struct $Section {
                $( $(#[doc = $doc])* pub(crate) $field: $type, )*
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $field: $default, )* }
                }
            }
        )*

        /// All settings of a node.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub(crate) struct Settings {
            $( $(#[doc = $section_doc])* pub(crate) $section: $Section, )*
        }

        impl Settings {
            const SECTIONS: &'static [(&'static str, &'static [&'static str])] =
                &[ $( (stringify!($section), &[ $( $section_doc, )* ]), )* ];
            const FIELDS: &'static [Field] = &[ $( $(
                Field { section: stringify!($section), name: stringify!($field), docs: &[ $( $doc, )* ] },
            )* )* ];

            /// Sets one setting from a TOML value. `None`: there is no such setting; `Some(Err)`: what was expected.
            fn set_toml(&mut self, section: &str, name: &str, value: &toml::de::DeValue<'_>) -> Option<Result<(), &'static str>> {
                match (section, name) {
                    $( $( (stringify!($section), stringify!($field)) => {
                        Some(Setting::from_toml(value).map(|value| self.$section.$field = value).ok_or(<$type as Setting>::EXPECTS))
                    } )* )*
                    _ => None,
                }
            }

            /// Sets one setting from text, as the environment gives it.
            fn set_text(&mut self, section: &str, name: &str, text: &str) -> Option<Result<(), &'static str>> {
                match (section, name) {
                    $( $( (stringify!($section), stringify!($field)) => {
                        Some(Setting::from_text(text).map(|value| self.$section.$field = value).ok_or(<$type as Setting>::EXPECTS))
                    } )* )*
                    _ => None,
                }
            }

            /// One setting as TOML; `None` where it is not set.
            fn to_toml(&self, field: &Field) -> Option<String> {
                match (field.section, field.name) {
                    $( $( (stringify!($section), stringify!($field)) => self.$section.$field.to_toml(), )* )*
                    _ => None,
                }
            }
        }
    };
}

settings! {
    /// The node: where it keeps what is its own, and how it runs.
    node: NodeSettings {
        /// Folder of the node itself: root keys, the sealing key where `keys.root_key_file` names no other place, and the
        /// lock that keeps a second server out. Objects and metadata are on the drives. Relative paths are relative to
        /// the folder the server is started in.
        data_dir: PathBuf = PathBuf::from("granary-data"),
        /// Region that buckets are created in and that GetBucketLocation tells. `us-east-1` is what S3 clients take when
        /// they are told nothing.
        region: String = "us-east-1".to_owned(),
        /// The law that this node is under, in words of your own: shown in residency reports and sealed onto the drives.
        jurisdiction: String = String::new(),
        /// Take drives that were declared to be in another region, and declare them anew: where the node has moved, or was named
        /// wrongly. Switch it off again after one start.
        moved_region: bool = false,
        /// Refuse to start while the system's clock is not synchronised: times of audit events and of object locks are only as good
        /// as it.
        require_time_sync: bool = false,
        /// Worker threads; 0: one per core.
        worker_threads: u32 = 0,
        /// How long requests in flight may go on after SIGTERM, in milliseconds. A second signal ends the server at once.
        drain_timeout_ms: u64 = 30_000,
    }

    /// The drives that hold everything: objects, metadata, log.
    drives: DriveSettings {
        /// Mounted folders, one per drive, each on a disk of its own. K+M at least. Required by `granary serve`;
        /// `granary dev` makes folders under `node.data_dir` when there are none.
        paths: Vec<PathBuf> = Vec::new(),
        /// Erasure scheme of new objects: K data and M parity blocks, from 1+0 to 16+4. Any M drives may be lost at once.
        erasure: Scheme = Scheme { k: 4, m: 2 },
        /// How drives are read and written: `auto` takes io_uring where the kernel permits it and threads elsewhere;
        /// `uring` refuses to start without it; `threads` never tries. The start-up line says which runs.
        engine: Engine = Engine::Auto,
        /// Size of a preallocated segment file in bytes; a multiple of 65536. Fixed for a drive when it is formatted.
        segment_bytes: u64 = SEGMENT_BYTES_DEFAULT,
        /// Bytes kept back on each drive, so that deletes, metadata and shutdown still work when it is full.
        reserve_bytes: u64 = 1 << 30,
        /// Bytes that objects may take on each drive; 0: as many as the file system has, less the reserve.
        limit_bytes: u64 = 0,
        /// Size of one preallocated file of the metadata log in bytes; a multiple of 65536.
        log_file_bytes: u64 = 64 << 20,
        /// Bytes of idle I/O buffers kept for reuse.
        buffer_pool_bytes: u64 = 256 << 20,
    }

    /// The S3 endpoint.
    s3: S3Settings {
        /// Address and port to listen on.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9000)),
        /// Domains for virtual-host style addressing: with `s3.example.org` here, `bucket.s3.example.org` is bucket
        /// `bucket`. Path style always works.
        domains: Vec<String> = Vec::new(),
        /// Certificate chain (PEM). Not set, with `plaintext` false: the node makes an authority and a certificate of its own
        /// in `tls/` under `node.data_dir`; clients trust `tls/ca.crt`. TLS 1.3 only, either way.
        tls_cert_file: Option<PathBuf> = None,
        /// Private key of the certificate (PEM).
        tls_key_file: Option<PathBuf> = None,
        /// Names and addresses that the node's own certificate carries beside this machine's: what clients call it by.
        tls_names: Vec<String> = Vec::new(),
        /// Authorities (PEM) that client certificates must come from. Set: who has none is not let in, whatever it signs.
        tls_client_ca_file: Option<PathBuf> = None,
        /// How often the certificate files are looked at, in milliseconds: changed ones are taken without dropping a
        /// connection. SIGHUP does it at once.
        tls_check_interval_ms: u64 = 10_000,
        /// Plain HTTP instead of TLS, where no certificate is set. On an address that is not loopback the start-up line and
        /// `granary status` repeat it. `granary dev` speaks plain HTTP on loopback anyway.
        plaintext: bool = false,
        /// Open connections at most; more wait in the kernel's queue until one closes.
        connections_max: u32 = 4096,
        /// Requests served at once; more are answered `503 SlowDown`.
        requests_max: u32 = 1024,
        /// From a request's first byte to the end of its headers, in milliseconds; also for the first request and the
        /// TLS handshake of a new connection.
        header_timeout_ms: u64 = 15_000,
        /// How long a connection may be kept open between requests, in milliseconds.
        idle_timeout_ms: u64 = 120_000,
        /// How long a request may go without a byte moving either way, in milliseconds. Long, because a reader that
        /// trains on what it streams stops reading for minutes.
        stall_timeout_ms: u64 = 900_000,
        /// How long a copy may take, in milliseconds, before its answer is begun (with white space, as S3 does) so
        /// that the client does not give up; then one more byte each time.
        copy_silence_ms: u64 = 10_000,
        /// Take whatever region a client asks for at CreateBucket and keep it as a label, instead of refusing
        /// all but `node.region`.
        any_region: bool = true,
        /// Make new buckets as S3 made them before April 2023: objects belong to their writer, access control lists count, and no
        /// public access is blocked. For clients (and test suites) of that time, which send lists and public policies without
        /// a word about ownership. Off, new buckets are closed, as on AWS today; either way each bucket's settings can be changed.
        open_new_buckets: bool = false,
        /// How often the lines of buckets that are logged (PutBucketLogging) are delivered, in milliseconds. A crash loses
        /// what was not; a shutdown delivers it.
        access_log_interval_ms: u64 = 300_000,
        /// Keys that tell which training run a request belongs to, where the request does not say it itself (header `x-granary-run`, user
        /// agent `granary-run/ID`): `BUCKET/PREFIX/`, with one `*` allowed in BUCKET; the folder that follows is the run.
        run_rules: Vec<String> = vec!["artefacts/".to_owned(), "*-artefacts/".to_owned()],
        /// Take requests signed with the old Signature Version 2, which boto3 still makes when it presigns for a custom
        /// endpoint in `us-east-1`.
        sigv2: bool = true,
        /// Take keys that clients send with their requests (SSE-C) over plain HTTP from other machines too, where whoever
        /// listens on the way learns them. Over TLS and on loopback they are taken always.
        customer_keys_in_the_clear: bool = false,
    }

    /// Objects: how they are kept, and when what is deleted is freed.
    store: StoreSettings {
        /// Objects and parts of at most this many bytes live in the metadata (at most 16384).
        inline_bytes_max: u64 = INLINE_BYTES_MAX as u64,
        /// Larger ones of at most this many bytes are kept as 1+M whole copies instead of stripes (at most 131072).
        copies_bytes_max: u64 = COPIES_BYTES_MAX,
        /// Memory that all bodies on their way in may hold together, in bytes; further ones wait.
        ingest_memory_bytes: u64 = 1 << 30,
        /// How long a body waits for that memory before it is answered `503 SlowDown`, in milliseconds.
        ingest_wait_ms: u64 = 20_000,
        /// How long the bytes of a deleted object rest before they are freed, in milliseconds; a read that is
        /// running meanwhile keeps them anyway.
        garbage_quarantine_ms: u64 = 5_000,
        /// How long a shard that nothing refers to (a crash left it) must be old before it is freed, in milliseconds.
        orphan_grace_ms: u64 = 3_600_000,
        /// How often drives are searched for such shards, in milliseconds; two searches must agree.
        sweep_interval_ms: u64 = 1_800_000,
        /// For tests: how many seconds a day of lifecycle rules has. With any other value than 86400, days are counted from
        /// the moment an object was written instead of ending at midnight UTC. Rules are acted upon 24 times a day.
        lifecycle_day_seconds: u64 = 86_400,
    }

    /// Where bucket notifications can be sent. A bucket's configuration names a target by its ARN, such as
    /// `arn:granary:webhook:REGION::NAME` or `arn:granary:nats:REGION::NAME` with `node.region`; only who writes these
    /// settings decides which addresses there are. A target named `eventbridge` is the one that EventBridgeConfiguration means.
    notify: NotifySettings {
        /// HTTP endpoints, each a section `[notify.webhook.NAME]` with `url` (http or https) and, where wanted, `secret_file`
        /// (what bodies are signed with: HMAC-SHA-256 in `X-Granary-Signature`) and `ca_file` (PEM, instead of the system's
        /// certificates). In the environment: `NAME=URL;secret_file=PATH`, separated by commas.
        webhook: Vec<WebhookTarget> = Vec::new(),
        /// NATS subjects, each a section `[notify.nats.NAME]` with `url` (nats:// or tls://), `subject`, and, where wanted,
        /// `jetstream = true` (wait until JetStream has the event), `secret_file` (`user:password`, or a token) and `ca_file`.
        nats: Vec<NatsTarget> = Vec::new(),
    }

    /// Reads for AI work: members of tar shards, batches (docs/ai.md).
    ai: AiSettings {
        /// Memory that indexes of tar shards may take together, in bytes; the index of one shard at most a quarter of it
        /// (about 28 bytes and its name for each member).
        shard_index_bytes: u64 = 256 << 20,
        /// Memory for opened chunks of objects that are read often, in bytes; 0: none are kept. Worth most when it holds half of
        /// what an epoch reads, or more.
        cache_bytes: u64 = 256 << 20,
        /// How often the rules of buckets are carried out that keep checkpoints and caches in shape, in milliseconds.
        keeper_interval_ms: u64 = 60_000,
    }

    /// Queries over objects (SelectObjectContent), in builds that have them.
    select: SelectSettings {
        /// Queries evaluated at once, each on one core; more are answered `503 SlowDown`. From 1 to 1000.
        queries_max: u32 = 8,
        /// Memory that one query may hold, in bytes: the chunks of a Parquet row group that it reads, four times a JSON document.
        /// From 16777216.
        memory_bytes: u64 = 256 << 20,
        /// How long one query may take, in milliseconds, however slowly its answer is taken; then it ends with the error `Busy`.
        /// From 1000.
        time_ms: u64 = 300_000,
    }

    /// The admin endpoint: health, metrics, and what `granary status`, `drive` and `heal` talk to.
    admin: AdminSettings {
        /// Address and port to listen on. Requests other than health and metrics are signed with the root keys. On loopback it
        /// speaks plain HTTP; anywhere else TLS, with the S3 endpoint's certificate.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9001)),
        /// Plain HTTP on an address that is not loopback, too. Requests are signed but can be read on the wire.
        plaintext: bool = false,
        /// Says that this deployment has one admin: then the one who asks for a bucket's pin to be narrowed may confirm it, too. Holds
        /// only while no user could confirm it; `granary status` shows it.
        single_admin: bool = false,
        /// File (mode 0600) with the token that scrapers of `/metrics` have to send, as `Authorization: Bearer TOKEN`: metrics name buckets
        /// and training runs. Not set: they are for whoever reaches the port.
        metrics_token_file: Option<PathBuf> = None,
        /// Training runs that metrics and `granary top` tell apart; those that ask for less are added up as `other`. From 1 to 1000.
        runs_max: u32 = 64,
    }

    /// Who is let in: clocks, identity providers, and how much guessing of keys is borne.
    identity: IdentitySettings {
        /// How far the time of a signature (SigV4 and SigV2 of S3, IAM and STS, forms, the admin port) may be from this node's clock, in
        /// milliseconds; from 5000 to 900000. The most is what AWS takes. A signed request can be replayed for as long, so
        /// less is better where clocks are synchronised.
        clock_skew_max_ms: u64 = 900_000,
        /// How far the times in an identity provider's tokens may be from it, in milliseconds; at most 300000.
        oidc_clock_skew_max_ms: u64 = 60_000,
        /// Issuers whose tokens AssumeRoleWithWebIdentity takes, by URL: from no other are keys fetched, whatever providers accounts set
        /// up. None: from every provider that an account has set up.
        oidc_issuers: Vec<String> = Vec::new(),
        /// Certificates (PEM) that issuers' are issued by. Not set: the system's.
        oidc_ca_file: Option<PathBuf> = None,
        /// Wrong signatures that may come from one address before it is answered `503 SlowDown`, unverified; from 10 to 1000000. Who signed
        /// rightly within the hour is served all the same.
        guesses_per_address_max: u32 = 1_000,
        /// How many of these are forgiven per second; from 1 to 10000.
        guesses_per_address_forgiven_per_second: u32 = 20,
        /// The same for one access key, from wherever; from 10 to 1000000.
        guesses_per_key_max: u32 = 200,
        /// How many of these are forgiven per second; from 1 to 10000.
        guesses_per_key_forgiven_per_second: u32 = 2,
    }

    /// The keys that everything on the drives is sealed with.
    keys: KeySettings {
        /// What keeps the root sealing key: `file`; `environment` (the text of a root key file in GRANARY_ROOT_KEY);
        /// `credential` (the same as a systemd credential); `vault` (the Transit engine of Vault or OpenBao); `pkcs11` (a key in
        /// a token: an HSM, SoftHSM2).
        provider: KeyProviderKind = KeyProviderKind::File,
        /// File with the root sealing key, 0600; made when it does not exist and the drives are new. Not set:
        /// `root.key` in `node.data_dir`. Keep a copy elsewhere: without it nothing on the drives can be read.
        root_key_file: Option<PathBuf> = None,
        /// Name of the systemd credential (a file in $CREDENTIALS_DIRECTORY).
        credential: String = "granary-root-key".to_owned(),
        /// Where Vault or OpenBao is: `https://host:port`. Plain http:// is taken for loopback only.
        vault_url: String = String::new(),
        /// Certificates (PEM) of the CA that signs the service's.
        vault_ca_file: Option<PathBuf> = None,
        /// Mount path of the Transit engine.
        vault_mount: String = "transit".to_owned(),
        /// Name of the Transit key (aes256-gcm96, not exportable).
        vault_key: String = "granary".to_owned(),
        /// Namespace, if any.
        vault_namespace: String = String::new(),
        /// File with the token, read at each request. Not set: the variable VAULT_TOKEN.
        vault_token_file: Option<PathBuf> = None,
        /// The PKCS#11 library of the token's maker, such as /usr/lib/softhsm/libsofthsm2.so.
        pkcs11_module: Option<PathBuf> = None,
        /// Label of the token.
        pkcs11_token: String = "granary".to_owned(),
        /// Label of the AES-256 key in the token; made when it does not exist and the drives are new.
        pkcs11_key: String = "granary".to_owned(),
        /// File with the user's PIN.
        pkcs11_pin_file: Option<PathBuf> = None,
        /// How long an opened key is kept in memory before the key provider is asked again, in milliseconds. When the
        /// provider is gone for longer than this, what needs it is refused (503) until it is back.
        cache_ms: u64 = 300_000,
        /// Ids of the keys that clients may name for SSE-KMS; those that are not there yet are made at start. More can be
        /// made with `granary key kms create`.
        kms_keys: Vec<String> = Vec::new(),
    }

    /// The audit trail: one event per request, chained, sealed into the bucket `granary-audit`. It cannot be switched off.
    audit: AuditSettings {
        /// Days that sealed segments are kept: 180 at least. It can be raised, and never lowered again.
        keep_days: u64 = AUDIT_KEEP_DAYS_MIN,
        /// How often events are sealed into a segment, in milliseconds.
        seal_interval_ms: u64 = 300_000,
        /// Seal earlier once so many events wait.
        seal_events: u64 = 10_000,
        /// How long events of reads and refused requests may gather before they are written, in milliseconds (at most
        /// 1000). Events of changes are durable before the answer, always.
        flush_interval_ms: u64 = 500,
        /// When so many events wait to be sealed (the drives are full), writes are refused; at twice as many, everything.
        unsealed_events_max: u64 = 1_000_000,
        /// Send every event to a syslog collector as it is written (RFC 5424, JSON): `udp://HOST:PORT` or `tcp://HOST:PORT`.
        syslog: Option<String> = None,
        /// POST every event to a webhook, as JSON arrays: `http://HOST/PATH`, or `https://` with `webhook_ca_file`.
        webhook: Option<String> = None,
        /// Certificate (PEM) that the webhook's is issued by.
        webhook_ca_file: Option<PathBuf> = None,
    }

    /// What the server says about itself on standard error.
    log: LogSettings {
        /// `text` or `json` (one object per line).
        format: LogFormat = LogFormat::Text,
        /// Which messages: a level (`error`, `warn`, `info`, `debug`, `trace`) or directives such as
        /// `info,granary_drive=debug`.
        filter: String = "info".to_owned(),
    }
}

impl Settings {
    /// Where the root sealing key is.
    pub(crate) fn root_key_file(&self) -> PathBuf {
        self.keys.root_key_file.clone().unwrap_or_else(|| self.node.data_dir.join("root.key"))
    }

    /// Where notifications can go.
    pub(crate) fn notify_targets(&self) -> Targets {
        Targets { webhooks: self.notify.webhook.clone(), nats: self.notify.nats.clone() }
    }

    /// Who is let in.
    pub(crate) fn limits(&self) -> Limits {
        let identity = &self.identity;
        Limits {
            clock_skew_s: identity.clock_skew_max_ms / 1_000,
            token_skew_s: identity.oidc_clock_skew_max_ms / 1_000,
            issuers: identity.oidc_issuers.clone(),
            per_address: Guesses {
                at_once: identity.guesses_per_address_max,
                forgiven_per_s: identity.guesses_per_address_forgiven_per_second,
            },
            per_key: Guesses {
                at_once: identity.guesses_per_key_max,
                forgiven_per_s: identity.guesses_per_key_forgiven_per_second,
            },
        }
    }

    /// Whether S3 clients come over TLS.
    pub(crate) const fn tls(&self) -> bool {
        self.s3.tls_cert_file.is_some() || !self.s3.plaintext
    }

    /// Whether the admin port speaks TLS.
    pub(crate) const fn admin_tls(&self) -> bool {
        !self.admin.listen.ip().is_loopback() && !self.admin.plaintext
    }

    /// The node's own certificate authority, made or not.
    pub(crate) fn local_ca(&self) -> LocalCa {
        let mut names = self.s3.tls_names.clone();
        names.extend(self.s3.domains.iter().flat_map(|domain| [domain.clone(), format!("*.{domain}")]));
        let concrete = [self.s3.listen.ip(), self.admin.listen.ip()];
        names.extend(concrete.iter().filter(|ip| !ip.is_unspecified()).map(ToString::to_string));
        LocalCa::new(&self.node.data_dir, names)
    }

    /// Whether plain HTTP is spoken beyond loopback.
    pub(crate) const fn plaintext_beyond_loopback(&self) -> bool {
        !self.tls() && !self.s3.listen.ip().is_loopback()
    }

    /// Whether the admin port speaks plain HTTP beyond loopback.
    pub(crate) const fn admin_plaintext_beyond_loopback(&self) -> bool {
        !self.admin_tls() && !self.admin.listen.ip().is_loopback()
    }
}
