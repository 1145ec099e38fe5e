//! Endpoints for AI work over the twin: what breaks midway never looks whole, and every endpoint asks who is there.

use crate::client::Auth;
use crate::harness::Server;

fn list(keys: &[&str]) -> Vec<u8> {
    let items: Vec<_> = keys.iter().map(|key| format!("{{\"key\":\"{key}\"}}")).collect();
    format!("{{\"items\":[{}]}}", items.join(",")).into_bytes()
}

#[test]
fn batches_that_break_are_cut() {
    let (_server, client) = Server::with_bucket("data");
    let bytes = vec![7u8; 3_000_000];
    for key in ["good", "fault-1", "short-1"] {
        client.store(&format!("/data/{key}"), &bytes);
    }
    for bad in ["fault-1", "short-1"] {
        let items = ["good", "good", "good", bad, "good"];
        let reply = client.post("/data").query("granary-batch", "").body(&list(&items)).send();
        let looks_whole = reply.status == 200 && !reply.is_cut;
        assert!(!looks_whole, "{bad}: {} bytes looked whole", reply.body.len());
        assert!(!reply.body.ends_with(&[0; 1024]), "{bad}: the end of an archive was sent");
    }
    let reply = client.post("/data").query("granary-batch", "").body(&list(&["good"; 5])).send().expect(200);
    assert!(!reply.is_cut && reply.body.ends_with(&[0; 1024]));
    assert_eq!(reply.body.len(), 5 * (512 + 3_000_320) + 1024);
}

#[test]
fn nobody_is_served_unsigned() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/k", b"x");
    for (method, path, name) in [
        ("GET", "/data/k", "granary-member"),
        ("HEAD", "/data/k", "granary-member"),
        ("GET", "/data/k", "granary-members"),
        ("POST", "/data", "granary-batch"),
        ("GET", "/data/run/", "granary-latest"),
        ("GET", "/data/d/", "granary-dataset"),
    ] {
        let body = if method == "POST" { list(&["k"]) } else { Vec::new() };
        client.request(method, path).query(name, "").body(&body).auth(Auth::Anonymous).send().expect(403);
        let wrong = client.request(method, path).query(name, "").body(&body).secret("wrong").send();
        wrong.expect(403);
    }
    let epoch = "/data/d/?granary-epoch=0&batch=0&batch-size=1&seed=1&rank=0&world-size=1";
    client.request("GET", epoch).auth(Auth::Anonymous).send().expect(403);
}
