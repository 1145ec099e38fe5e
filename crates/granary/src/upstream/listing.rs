//! Listings of an upstream: the query, and the document that answers it.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>

use granary_store::upstream::{RemoteEntry, RemoteListRequest, RemotePage};
use granary_types::date;
use quick_xml::Reader;
use quick_xml::events::Event;

/// Elements within elements that are followed.
const DEPTH_MAX: usize = 16;
/// Entries of a document, at most: more than any page has.
const ENTRIES_MAX: usize = 4096;

/// The query of a page, sorted and encoded as it is signed.
pub(super) fn query(request: &RemoteListRequest) -> String {
    let encode = |text: &str| granary_s3::percent_encode(text).replace('/', "%2F");
    let mut pairs = vec![
        ("encoding-type", "url".to_owned()),
        ("list-type", "2".to_owned()),
        ("max-keys", request.max_keys.to_string()),
    ];
    if let Some(delimiter) = &request.delimiter {
        pairs.push(("delimiter", encode(delimiter)));
    }
    if !request.prefix.is_empty() {
        pairs.push(("prefix", encode(&request.prefix)));
    }
    if let Some(after) = &request.after {
        pairs.push(("start-after", encode(after)));
    }
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[derive(Default)]
struct Contents {
    key: Option<String>,
    size: Option<String>,
    etag: Option<String>,
    modified: Option<String>,
    class: Option<String>,
}

impl Contents {
    fn entry(self, is_encoded: bool) -> Result<RemoteEntry, String> {
        let missing = |what: &str| format!("an entry without a {what} that can be read");
        let key = decoded(self.key.ok_or_else(|| missing("Key"))?, is_encoded)?;
        let size_bytes = self.size.and_then(|size| size.trim().parse().ok()).ok_or_else(|| missing("Size"))?;
        let etag = self.etag.map(|etag| etag.trim().trim_matches('"').to_owned()).unwrap_or_default();
        let modified = self.modified.and_then(|at| date::parse_at(at.trim())).ok_or_else(|| missing("LastModified"))?;
        let storage_class = self.class.filter(|class| class != "STANDARD" && !class.is_empty());
        Ok(RemoteEntry { key, size_bytes, etag, modified, storage_class })
    }
}

fn decoded(text: String, is_encoded: bool) -> Result<String, String> {
    if !is_encoded {
        return Ok(text);
    }
    granary_s3::form_decode(&text).ok_or_else(|| "a name that is not encoded as it says".to_owned())
}

/// A page.
///
/// # Errors
/// What is wrong with the document, in words.
pub(super) fn parse(document: &[u8]) -> Result<RemotePage, String> {
    let mut reader = Reader::from_reader(document);
    let mut path: Vec<String> = Vec::new();
    let mut text = String::new();
    let mut is_truncated = None;
    let mut is_encoded = false;
    let mut contents: Vec<Contents> = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    let mut is_whole = false;
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(tag) => {
                let name = String::from_utf8_lossy(tag.local_name().as_ref()).into_owned();
                if path.is_empty() && name != "ListBucketResult" {
                    return Err(format!("it is no ListBucketResult but {}", name.escape_debug()));
                }
                if path.len() >= DEPTH_MAX || contents.len() + prefixes.len() > ENTRIES_MAX {
                    return Err("it has too much in it".to_owned());
                }
                if path.len() == 1 && name == "Contents" {
                    contents.push(Contents::default());
                }
                path.push(name);
                text.clear();
            }
            Event::Text(more) => text.push_str(&more.decode().map_err(|error| error.to_string())?),
            Event::CData(more) => text.push_str(&more.decode().map_err(|error| error.to_string())?),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().map_err(|error| error.to_string())? {
                Some(character) => text.push(character),
                None => {
                    let name = reference.decode().map_err(|error| error.to_string())?;
                    let known = quick_xml::escape::resolve_predefined_entity(&name);
                    text.push_str(known.ok_or("it has an entity that is not XML's own")?);
                }
            },
            Event::End(_) => {
                let value = std::mem::take(&mut text);
                let names: Vec<&str> = path.iter().map(String::as_str).collect();
                match names[..] {
                    ["ListBucketResult"] => is_whole = true,
                    [_, "IsTruncated"] => is_truncated = Some(value.trim() == "true"),
                    [_, "EncodingType"] => is_encoded = value.trim() == "url",
                    [_, "CommonPrefixes", "Prefix"] => prefixes.push(value),
                    [_, "Contents", what] => {
                        let entry = contents.last_mut().ok_or("an entry outside of any")?;
                        match what {
                            "Key" => entry.key = Some(value),
                            "Size" => entry.size = Some(value),
                            "ETag" => entry.etag = Some(value),
                            "LastModified" => entry.modified = Some(value),
                            "StorageClass" => entry.class = Some(value),
                            _ => {}
                        }
                    }
                    _ => {}
                }
                path.pop();
            }
            Event::DocType(_) => return Err("it has a document type".to_owned()),
            Event::Eof => break,
            _ => {}
        }
    }
    let is_truncated =
        is_truncated.filter(|_| is_whole).ok_or("it is cut short, or does not say whether there is more")?;
    Ok(RemotePage {
        objects: contents.into_iter().map(|entry| entry.entry(is_encoded)).collect::<Result<_, _>>()?,
        common_prefixes: prefixes.into_iter().map(|name| decoded(name, is_encoded)).collect::<Result<_, _>>()?,
        is_truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_sorted_and_encoded() {
        let request = RemoteListRequest {
            prefix: "a b/".to_owned(),
            delimiter: Some("/".to_owned()),
            after: Some("a b/ü&".to_owned()),
            max_keys: 7,
        };
        assert_eq!(
            query(&request),
            "delimiter=%2F&encoding-type=url&list-type=2&max-keys=7&prefix=a%20b%2F&start-after=a%20b%2F%C3%BC%26"
        );
    }

    const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix><KeyCount>2</KeyCount>
<IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>
<Contents><Key>a%2Bb+c%26</Key><LastModified>2026-11-20T12:40:00.000Z</LastModified><ETag>&quot;e1&#45;2&quot;</ETag><Size>7</Size>
<StorageClass>STANDARD</StorageClass><Owner><ID>x</ID><DisplayName>Key</DisplayName></Owner></Contents>
<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes></ListBucketResult>"#;

    #[test]
    fn pages_read_back() {
        let page = parse(PAGE.as_bytes()).unwrap();
        assert!(page.is_truncated);
        assert_eq!(page.common_prefixes, ["d/"]);
        let entry = &page.objects[0];
        assert_eq!((entry.key.as_str(), entry.size_bytes, entry.etag.as_str()), ("a+b c&", 7, "e1-2"));
        assert_eq!(entry.modified.as_secs(), 1_795_178_400);
        assert_eq!(entry.storage_class, None);
    }

    #[test]
    fn what_is_no_whole_page_is_refused() {
        for cut in [10, 60, 200, 400, PAGE.len() - 30] {
            assert!(parse(&PAGE.as_bytes()[..cut]).is_err(), "{cut}");
        }
        assert!(parse(b"").is_err());
        assert!(parse(b"<html><body>It works!</body></html>").is_err());
        assert!(parse(PAGE.replace("<IsTruncated>true</IsTruncated>", "").as_bytes()).is_err());
        assert!(parse(PAGE.replace("<Size>7</Size>", "").as_bytes()).is_err());
        assert!(parse(PAGE.replace("%2B", "%G").as_bytes()).is_err());
        assert!(parse(PAGE.replace("&quot;", "&bomb;").as_bytes()).is_err());
    }
}
