//! ListObjects v1 and v2, ListObjectVersions: pages, delimiters, encoding, markers, tokens.

use crate::client::Client;
use crate::harness::{Server, element, elements};
use crate::sign;

const KEYS: [&str; 9] = ["a", "b/1", "b/2", "b/3/x", "c", "d/1", "e f", "g+h", "z"];

fn filled() -> (Server, Client) {
    let (server, client) = Server::with_bucket("data");
    for key in KEYS {
        client.store(&format!("/data/{}", sign::encode(key).replace("%2F", "/")), key.as_bytes());
    }
    (server, client)
}

/// Keys and common prefixes of all pages of a v2 listing, and how many pages there were.
fn all_pages(client: &Client, query: &[(&str, &str)], max_keys: &str) -> (Vec<String>, usize) {
    let (mut names, mut token, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let mut request = client.get("/data?list-type=2").query("max-keys", max_keys);
        for (name, value) in query {
            request = request.query(name, value);
        }
        if let Some(token) = &token {
            request = request.query("continuation-token", token);
        }
        let text = request.send().expect(200).text();
        pages += 1;
        let keys = elements(&text, "Key");
        let groups: Vec<_> = elements(&text, "CommonPrefixes").iter().filter_map(|g| element(g, "Prefix")).collect();
        assert_eq!(element(&text, "KeyCount"), Some((keys.len() + groups.len()).to_string().as_str()));
        let mut page: Vec<String> = keys.iter().chain(&groups).map(|s| (*s).to_owned()).collect();
        page.sort();
        names.extend(page);
        token = element(&text, "NextContinuationToken").map(str::to_owned);
        assert_eq!(element(&text, "IsTruncated"), Some(if token.is_some() { "true" } else { "false" }));
        if token.is_none() {
            return (names, pages);
        }
    }
}

#[test]
fn v2_pages_are_complete_whatever_their_size() {
    let (_server, client) = filled();
    for max in 1..=10 {
        let (names, pages) = all_pages(&client, &[], &max.to_string());
        assert_eq!(names, KEYS, "{max}");
        assert_eq!(pages, KEYS.len().div_ceil(max), "{max}");
        let (names, _) = all_pages(&client, &[("delimiter", "/")], &max.to_string());
        assert_eq!(names, ["a", "b/", "c", "d/", "e f", "g+h", "z"], "{max}");
        let (names, _) = all_pages(&client, &[("delimiter", "/"), ("prefix", "b/")], &max.to_string());
        assert_eq!(names, ["b/1", "b/2", "b/3/"], "{max}");
    }
    let (names, _) = all_pages(&client, &[("start-after", "b/2")], "1000");
    assert_eq!(names, KEYS[3..]);
    assert!(all_pages(&client, &[("prefix", "none")], "5").0.is_empty());
}

#[test]
fn v2_fields() {
    let (_server, client) = filled();
    let text = client.get("/data?list-type=2&start-after=y&max-keys=7&prefix=z").send().expect(200).text();
    for (name, value) in [
        ("Name", "data"),
        ("Prefix", "z"),
        ("MaxKeys", "7"),
        ("StartAfter", "y"),
        ("Size", "1"),
        ("StorageClass", "STANDARD"),
    ] {
        assert_eq!(element(&text, name), Some(value), "{text}");
    }
    assert_eq!(element(&text, "ChecksumAlgorithm"), Some("CRC64NVME"), "{text}");
    assert!(element(&text, "LastModified").is_some_and(|at| at.ends_with('Z')), "{text}");
    assert!(!text.contains("<Owner>"));
    let text = client.get("/data?list-type=2&fetch-owner=true").send().text();
    assert_eq!(elements(&text, "ID").len(), KEYS.len());

    let nothing = client.get("/data?list-type=2&max-keys=0").send().expect(200).text();
    assert_eq!((element(&nothing, "KeyCount"), element(&nothing, "IsTruncated")), (Some("0"), Some("false")));
    let capped = client.get("/data?list-type=2&max-keys=5000").send().expect(200).text();
    assert_eq!(element(&capped, "MaxKeys"), Some("1000"));
    client.get("/data?list-type=2&max-keys=-1").send().expect_error(400, "InvalidArgument");
    client.get("/data?list-type=2&max-keys=x").send().expect_error(400, "InvalidArgument");
    client.get("/data?list-type=2&continuation-token=made-up").send().expect_error(400, "InvalidArgument");
    client.get("/data?list-type=2&continuation-token=").send().expect(200);
    client.get("/data?list-type=2&encoding-type=rot13").send().expect_error(400, "InvalidArgument");
    client.get("/none?list-type=2").send().expect_error(404, "NoSuchBucket");
}

#[test]
fn url_encoding() {
    let (_server, client) = filled();
    client.store("/data/%0D%0A%01", b"x");
    let text = client.get("/data?list-type=2&encoding-type=url").query("prefix", "e f").send().expect(200).text();
    assert_eq!((element(&text, "EncodingType"), element(&text, "Key")), (Some("url"), Some("e%20f")));
    assert_eq!(element(&text, "Prefix"), Some("e%20f"));
    let text = client.get("/data?encoding-type=url").query("delimiter", "+").send().expect(200).text();
    assert!(text.contains("<Prefix>g%2B</Prefix>") && text.contains("<Delimiter>%2B</Delimiter>"), "{text}");
    assert!(text.contains("<Key>%0D%0A%01</Key>"), "{text}");
    assert!(text.contains("<Key>b/1</Key>"), "{text}");
    // Without encoding, what XML would change goes as a character reference.
    let text = client.get("/data?list-type=2").send().expect(200).text();
    assert!(text.contains("<Key>&#xD;\n&#x1;</Key>"), "{text}");
    client.store("/data/%3C%26%3E", b"x");
    assert!(client.get("/data?list-type=2").send().text().contains("<Key>&lt;&amp;&gt;</Key>"));
}

#[test]
fn v1_markers() {
    let (_server, client) = filled();
    let text = client.get("/data?max-keys=3").send().expect(200).text();
    assert_eq!(elements(&text, "Key"), &KEYS[..3]);
    assert_eq!(element(&text, "IsTruncated"), Some("true"));
    // Only with a delimiter.
    assert_eq!(element(&text, "NextMarker"), None);
    assert!(text.contains("<Owner>"));
    let text = client.get("/data?marker=b/2").send().expect(200).text();
    assert_eq!(elements(&text, "Key"), &KEYS[3..]);
    assert_eq!(element(&text, "Marker"), Some("b/2"));

    let text = client.get("/data?max-keys=2&delimiter=/").send().expect(200).text();
    assert_eq!(element(&text, "NextMarker"), Some("b/"));
    let text = client.get("/data?max-keys=2&delimiter=/&marker=b/").send().expect(200).text();
    assert_eq!(elements(&text, "Key"), ["c"]);
    assert_eq!(element(&text, "NextMarker"), Some("d/"));
    let text = client.get("/data?delimiter=/&marker=d/").send().expect(200).text();
    assert_eq!((elements(&text, "Key"), element(&text, "NextMarker")), (vec!["e f", "g+h", "z"], None));
    assert_eq!(element(&client.get("/data?max-keys=0").send().text(), "IsTruncated"), Some("false"));
}

#[test]
fn versions_in_pages() {
    let (_server, client) = Server::with_bucket("data");
    let body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    client.put("/data?versioning").body(body).send().expect(200);
    for key in ["a", "a", "b", "dir/x"] {
        client.store(&format!("/data/{key}"), b"x");
    }
    client.delete("/data/b").send().expect(204);
    let text = client.get("/data?versions").send().expect(200).text();
    assert_eq!((elements(&text, "Version").len(), elements(&text, "DeleteMarker").len()), (4, 1));
    assert_eq!(elements(&text, "IsLatest").iter().filter(|l| **l == "true").count(), 3);
    let whole = elements(&text, "VersionId").len();

    let (mut seen, mut marker) = (0, None::<(String, String)>);
    loop {
        let mut request = client.get("/data?versions&max-keys=2");
        if let Some((key, version)) = &marker {
            request = request.query("key-marker", key).query("version-id-marker", version);
        }
        let text = request.send().expect(200).text();
        seen += elements(&text, "VersionId").len();
        if element(&text, "IsTruncated") == Some("false") {
            break;
        }
        let next = (element(&text, "NextKeyMarker").unwrap(), element(&text, "NextVersionIdMarker").unwrap());
        marker = Some((next.0.to_owned(), next.1.to_owned()));
    }
    assert_eq!(seen, whole);
    let text = client.get("/data?versions&delimiter=/").send().expect(200).text();
    assert!(text.contains("<Prefix>dir/</Prefix>"), "{text}");
    client.get("/data?versions&version-id-marker=null").send().expect_error(400, "InvalidArgument");
    client.get("/data?versions&key-marker=a&version-id-marker=x").send().expect_error(400, "InvalidArgument");
}
