//! The front door over the tests' store in memory, with the face of `granary dev`: lets the client tests
//! (`GRANARY_BIN=…/examples/memory pytest tests/clients`) try S3 semantics without an engine. Keeps nothing.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::type_complexity)]

#[path = "../tests/front/client.rs"]
mod client;
#[path = "../tests/front/harness.rs"]
mod harness;
#[path = "../tests/front/sign.rs"]
mod sign;
#[path = "../tests/front/twin.rs"]
mod twin;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let flag = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let address = flag("--listen").map_or("127.0.0.1:9000", String::as_str);
    let key = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let access_key = key("GRANARY_ROOT_ACCESS_KEY", harness::ACCESS_KEY);
    let secret_key = key("GRANARY_ROOT_SECRET_KEY", harness::SECRET_KEY);
    let server = harness::Server::listen(address, &access_key, &secret_key, granary_s3::FrontConfig::default());
    println!("READY http://{}", server.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("SIGTERM");
        end.recv().await;
    });
}
