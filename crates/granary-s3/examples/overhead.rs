//! CPU of the front door alone: signed GETs of 4 KiB from memory, without sockets and without hyper.
//!
//! `cargo run --release -p granary-s3 --example overhead [requests]` prints CPU microseconds per request, of all and
//! of s3s's parts that can be told apart by leaving them out (signature: a presigned or anonymous request).
//!
//! 20 November 2026, 2 shared cores, release build: SigV4 header 8.7 us, presigned 12, SigV2 5, refused as anonymous 3.3.
//! Of SigV4's 8.7 about 5 are the signature (SHA-256 and HMAC 1.2, canonical request, allocations); nothing of ours
//! stands out in `perf`.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::type_complexity)]

#[path = "../tests/front/client.rs"]
mod client;
#[path = "../tests/front/harness.rs"]
mod harness;
#[path = "../tests/front/sign.rs"]
mod sign;
#[path = "../tests/front/twin.rs"]
mod twin;

use client::Auth;
use http::Request;
use http_body_util::BodyExt;
use s3s::Body;

/// User and system CPU of this thread so far, in microseconds.
fn cpu_micros() -> f64 {
    // Fields 14 and 15 of stat are too coarse; schedstat has nanoseconds on the CPU.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanos: f64 = text.split(' ').next().and_then(|n| n.parse().ok()).expect("its first field is a number");
    nanos / 1_000.0
}

fn main() {
    let requests: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50_000);
    let (server, client) = harness::Server::with_bucket("data");
    client.store("/data/some/key/of/usual/length-0001.bin", &[7; 4096]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    for (name, auth) in [
        ("GET 4 KiB, SigV4 header", Auth::Signed),
        ("GET 4 KiB, presigned", Auth::Presigned(3600)),
        ("GET 4 KiB, SigV2 header", Auth::V2Header),
        ("refused: anonymous", Auth::Anonymous),
    ] {
        let built = client.get("/data/some/key/of/usual/length-0001.bin").auth(auth);
        let built = built.header("user-agent", "Boto3/1.43 md/Botocore#1.43 ua/2.1 os/linux lang/python#3.11");
        let (target, headers, _) = built.prepare();
        let request = || {
            let mut request = Request::get(target.as_str());
            for (name, value) in &headers {
                request = request.header(name.as_str(), value.as_str());
            }
            request.body(Body::empty()).expect("the request is well formed")
        };
        let run = |count: u32, serve: bool| {
            runtime.block_on(async {
                let before = cpu_micros();
                for _ in 0..count {
                    let request = request();
                    if serve {
                        let answer = server.service.serve(request).await;
                        let _ = answer.into_body().collect().await.expect("the body is whole");
                    }
                }
                (cpu_micros() - before) / f64::from(count)
            })
        };
        run(requests / 10, true);
        println!("{name}: {:.2} us CPU", run(requests, true) - run(requests, false));
    }
}
