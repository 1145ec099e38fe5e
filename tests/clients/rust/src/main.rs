//! S3 clients in Rust against a server: `s3-clients aws-sdk|object-store ENDPOINT BUCKET [CA.pem]`. Keys and region come from the
//! environment. Prints `fine`; a panic says what was not as it should be. The bucket has to be there, empty and without versioning.

mod arrow;
mod aws;
mod aws_parts;

use std::env;

/// Where to, and as whom.
pub(crate) struct Target {
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) region: String,
    /// Whose certificates count, as PEM, where the endpoint is https.
    pub(crate) ca: Option<Vec<u8>>,
}

/// The same bytes for the same number on each call, and others for another (xorshift: not for secrets).
pub(crate) fn content(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut made = Vec::with_capacity(bytes + 8);
    while made.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        made.extend_from_slice(&state.to_le_bytes());
    }
    made.truncate(bytes);
    made
}

/// A client that knows nothing of S3, for URLs that say everything.
pub(crate) fn plain_http(target: &Target) -> reqwest::Client {
    let certificates = target.ca.iter().map(|pem| reqwest::Certificate::from_pem(pem).expect("a certificate"));
    reqwest::Client::builder().tls_certs_only(certificates).build().expect("an HTTP client")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().expect("the only provider");
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [client, endpoint, bucket, ca @ ..] = arguments.as_slice() else {
        panic!("usage: s3-clients aws-sdk|object-store ENDPOINT BUCKET [CA.pem]");
    };
    let target = Target {
        endpoint: endpoint.clone(),
        bucket: bucket.clone(),
        access_key: variable("AWS_ACCESS_KEY_ID"),
        secret_key: variable("AWS_SECRET_ACCESS_KEY"),
        region: variable("AWS_REGION"),
        ca: ca.first().map(|path| std::fs::read(path).unwrap_or_else(|why| panic!("{path}: {why}"))),
    };
    match client.as_str() {
        "aws-sdk" => {
            let client = aws::client(&target);
            aws::run(&client, &target).await;
            aws_parts::run(&client, &target.bucket).await;
        }
        "object-store" => arrow::run(&target).await,
        other => panic!("`{other}` is neither aws-sdk nor object-store"),
    }
    println!("fine");
}
